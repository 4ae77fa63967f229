"""The method as data: one class for API body, database column, CLI and science."""

from tcaq_core.recipe.data import Allocate as Allocate
from tcaq_core.recipe.data import Select as Select
from tcaq_core.recipe.data import Split as Split
from tcaq_core.recipe.passes import ORDER as ORDER
from tcaq_core.recipe.passes import Pass as Pass
from tcaq_core.recipe.presets import PRESETS as PRESETS
from tcaq_core.recipe.presets import resolve as resolve
from tcaq_core.recipe.ranges import DAQ as DAQ
from tcaq_core.recipe.ranges import TCR as TCR
from tcaq_core.recipe.ranges import FitRanges as FitRanges
from tcaq_core.recipe.ranges import SoftmaxGrid as SoftmaxGrid
from tcaq_core.recipe.ranges import Temporal as Temporal
from tcaq_core.recipe.recipe import ActivationBits as ActivationBits
from tcaq_core.recipe.recipe import CalibrationSpec as CalibrationSpec
from tcaq_core.recipe.recipe import LayerBits as LayerBits
from tcaq_core.recipe.recipe import Method as Method
from tcaq_core.recipe.recipe import Override as Override
from tcaq_core.recipe.recipe import Recipe as Recipe
from tcaq_core.recipe.recipe import SoftmaxBits as SoftmaxBits
from tcaq_core.recipe.recipe import WeightBits as WeightBits
from tcaq_core.recipe.reconstruction import PAR as PAR
from tcaq_core.recipe.reconstruction import SecondOrder as SecondOrder
from tcaq_core.recipe.trajectory import Correct as Correct
from tcaq_core.recipe.trajectory import Modulate as Modulate
