"""The method as data: one class for API body, database column, CLI and science."""

from tcaq_core.recipe.passes import DAQ as DAQ
from tcaq_core.recipe.passes import ORDER as ORDER
from tcaq_core.recipe.passes import PAR as PAR
from tcaq_core.recipe.passes import TCR as TCR
from tcaq_core.recipe.passes import FitRanges as FitRanges
from tcaq_core.recipe.passes import Pass as Pass
from tcaq_core.recipe.presets import PRESETS as PRESETS
from tcaq_core.recipe.presets import resolve as resolve
from tcaq_core.recipe.recipe import ActivationBits as ActivationBits
from tcaq_core.recipe.recipe import CalibrationSpec as CalibrationSpec
from tcaq_core.recipe.recipe import LayerBits as LayerBits
from tcaq_core.recipe.recipe import Method as Method
from tcaq_core.recipe.recipe import Override as Override
from tcaq_core.recipe.recipe import Recipe as Recipe
from tcaq_core.recipe.recipe import SoftmaxBits as SoftmaxBits
from tcaq_core.recipe.recipe import WeightBits as WeightBits
