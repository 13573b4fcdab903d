"""How much chaos: 1.0 is the guide's full count of every fault, 0 what `make test` has time for."""

import os
from typing import Final

SCALE: Final = float(os.environ.get("PRODROME_CHAOS_SCALE", "0"))
#: From here on the nightly form: what is a matter of chance is repeated.
LONG: Final = SCALE >= 0.1
