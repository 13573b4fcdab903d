"""The DICOM door: C-STORE and C-ECHO, durable before Success.

1. `guard` bounds what a connection may cost before anyone is known, `strangers` how many of those there are.
2. `admission` admits or rejects an association; `negotiation` chooses transfer syntaxes.
3. `takeover` reads C-STORE itself while an association is established: `inbound` cuts PDUs where they lie in
   memory, `waiting` lets pynetdicom's threads sleep. `plain` is pynetdicom's own way, by setting.
4. `intake` collects one dataset as it arrives, in memory or, when it is large, straight into the spool.
5. `store` writes it to the spool and turns whatever happened into a status of `statuses`.
6. `door` wires these to pynetdicom's events, and `tally` counts what was stored.
7. `server` listens, and ends gracefully; `processes` runs several, which share `slots`.

Nothing of the dataset is decoded but the few UIDs of its first kilobytes, and nothing is changed.
"""

from producers.receiver.processes import serve_all
from producers.receiver.server import serve
from producers.receiver.statuses import ANSWERS, REJECTIONS

__all__ = ["ANSWERS", "REJECTIONS", "serve", "serve_all"]
