"""Python imports this when a program starts and its folder is on PYTHONPATH: where a test changes a role.

`CHAOS_PLUG` names a function of `plugs`, beside this folder. Roles that no test started have neither.
"""

import os
import sys
from pathlib import Path

if name := os.environ.get("CHAOS_PLUG"):
    sys.path.append(str(Path(__file__).parents[1]))
    import plugs

    getattr(plugs, name)()
