"""Run with the archive of a release's readers: reads messages from standard input as that release would.

A line in: topic, headers, body. A line out: what it read, or the reason word.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])

import schemas.codec
from schemas.errors import BadMessage
from schemas.topics import BY_NAME

assert schemas.codec.__file__.startswith(sys.argv[1]), "expected the release's own readers"
for line in sys.stdin:
    topic, headers, value = json.loads(line)
    wire = [(name, text.encode()) for name, text in headers.items()]
    try:
        event = schemas.codec.decode(value.encode(), wire, accepts=BY_NAME[topic].types)
        print(schemas.codec.body(event).decode())
    except BadMessage as error:
        print(json.dumps(error.reason))
