#!/bin/bash
# Kafka's first start makes its data folder; every start then runs the broker. In the image apache/kafka.
set -eu
umask 077
# the password without the end of its line, which would end Kafka's configuration of logins in the middle
printf 'kafka=%s\n' "$(cat /run/secrets/prodrome/kafka)" > /tmp/secrets.properties
settings=/etc/prodrome/kafka.properties
tools=/opt/kafka/bin
if [ ! -f /var/lib/kafka/data/meta.properties ]; then
  "$tools/kafka-storage.sh" format --standalone --cluster-id "$("$tools/kafka-storage.sh" random-uuid)" -c "$settings"
fi
exec "$tools/kafka-server-start.sh" "$settings"
