from flashjax.tools.model import Model as Model
from flashjax.tools.model import load as load
from flashjax.types import InputError as InputError

__version__: str
