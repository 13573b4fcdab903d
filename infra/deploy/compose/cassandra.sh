#!/bin/bash
# Cassandra that lets in whom it knows. In the image cassandra.
#
# A fresh one knows a superuser whose name and password are public. The first start listens inside this container
# only, until the administrator is made and the public one is gone; every other start is an ordinary one.
set -eu
settings=/etc/prodrome/cassandra.yaml

start() {
  exec cassandra -f -Dcassandra.config="file://$1" -Dcassandra.superuser_setup_delay_ms=0
}

if [ ! -f /var/lib/cassandra/closed ]; then
  password=$(tr -d '\n' </run/secrets/prodrome/cassandra)
  sed -e 's/^rpc_address:.*/rpc_address: 127.0.0.1/' -e '/^broadcast_rpc_address:/d' "$settings" >/tmp/first.yaml
  (start /tmp/first.yaml) &
  node=$!
  # one of the two, for a first start may have been cut; no password stands in a list of processes
  printf '[authentication]\nusername = prodrome_admin\npassword = %s\n' "$password" >/tmp/admin
  printf '[authentication]\nusername = cassandra\npassword = cassandra\n' >/tmp/public
  chmod 600 /tmp/admin /tmp/public
  made="CREATE ROLE IF NOT EXISTS prodrome_admin WITH SUPERUSER = true AND LOGIN = true AND PASSWORD = '$password';"
  until echo "$made" | cqlsh --credentials /tmp/public 127.0.0.1 || echo "$made" | cqlsh --credentials /tmp/admin 127.0.0.1; do
    kill -0 "$node"
    sleep 2
  done
  echo 'DROP ROLE IF EXISTS cassandra;' | cqlsh --credentials /tmp/admin 127.0.0.1
  rm /tmp/admin /tmp/public
  kill "$node"
  wait "$node" || true
  touch /var/lib/cassandra/closed
fi
start "$settings"
