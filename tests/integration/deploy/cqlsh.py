"""As much of cqlsh as the compose file's script uses: PORT --credentials FILE HOST, statements on standard input."""

import configparser
import sys

from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster

port, option, file, host = sys.argv[1:]
assert option == "--credentials"
login = configparser.ConfigParser()
login.read(file)
auth = PlainTextAuthProvider(login["authentication"]["username"], login["authentication"]["password"])
with Cluster([host], port=int(port), auth_provider=auth, protocol_version=5, connect_timeout=5) as cluster:
    session = cluster.connect()
    for statement in filter(str.strip, sys.stdin.read().split(";\n")):
        session.execute(statement)
