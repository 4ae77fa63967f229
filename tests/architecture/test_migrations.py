import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.orm import Session

from jobs.database import make_engine
from jobs.models import Base
from jobs.settings import Settings
from migrations.check import differences
from migrations.upgrade import downgrade, upgrade
from tests.factories import make_job

ROOT = Path(__file__).resolve().parents[2]


def test_migrations_build_what_the_models_say(settings: Settings) -> None:
    assert differences(settings, Base.metadata) == []


def test_a_column_without_migration_is_drift(settings: Settings) -> None:
    changed = sa.MetaData()
    for table in Base.metadata.sorted_tables:
        table.to_metadata(changed)
    changed.tables["jobs"].append_column(sa.Column("priority", sa.Integer))
    assert ["priority" in change for change in differences(settings, changed)] == [True]


def test_every_constraint_has_the_name_that_the_models_give_it(
    settings: Settings,
) -> None:
    engine = make_engine(settings)
    found = sa.inspect(engine)
    for table in Base.metadata.sorted_tables:
        declared = {item.name for item in table.constraints}
        declared |= {item.name for item in table.indexes}
        built = {found.get_pk_constraint(table.name)["name"]}
        for names in (
            found.get_check_constraints(table.name),
            found.get_foreign_keys(table.name),
            found.get_indexes(table.name),
        ):
            built |= {item["name"] for item in names}
        assert built == declared
    engine.dispose()


@pytest.mark.parametrize(
    ("column", "value"),
    [("status", "asleep"), ("kind", "train"), ("fraction", 1.5), ("attempt", -1)],
)
def test_the_database_itself_refuses_what_no_job_can_be(
    session: Session, column: str, value: object
) -> None:
    job = make_job(session)
    statement = sa.text(f"UPDATE jobs SET {column} = :value")  # noqa: S608 - no input
    assert job.attempt == 0
    with pytest.raises(sa.exc.IntegrityError):
        session.execute(statement, {"value": value})


def test_upgrading_again_keeps_the_rows(
    settings: Settings, sessions: Callable[[], Session]
) -> None:
    with sessions() as session:
        make_job(session)
        session.commit()
    upgrade(settings)
    with sessions() as session:
        assert session.execute(sa.text("SELECT count(*) FROM jobs")).scalar_one() == 1


def test_downgrading_leaves_nothing_but_the_version_table(settings: Settings) -> None:
    downgrade(settings)
    engine = make_engine(settings)
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()


def test_processes_that_upgrade_at_the_same_moment_take_turns(
    tmp_path: Path, database_url: SecretStr | None
) -> None:
    settings = Settings(data_directory=tmp_path, database_url=database_url)
    environment = {"TCAQ_DATA_DIRECTORY": str(tmp_path)}
    if database_url is not None:
        environment["TCAQ_DATABASE_URL"] = database_url.get_secret_value()

    def run(_: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "migrations.upgrade"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(run, range(4)))
    assert [item.returncode for item in done] == [0] * 4, done[0].stderr
    assert differences(settings, Base.metadata) == []


def test_the_check_command_succeeds_whatever_database_the_environment_names() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "migrations.check"],
        cwd=ROOT,
        env={"TCAQ_DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (
        0,
        "The migrations are in step with the models.\n",
    )
