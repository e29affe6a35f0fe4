#!/bin/sh
# Start PostgreSQL; on an empty volume, first make a cluster with the user and database `luthier`.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${PGPASSWORD:?names no password for the user luthier}"
    umask 077
    printf '%s\n' "$PGPASSWORD" > /tmp/password
    initdb --username=luthier --pwfile=/tmp/password --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    rm /tmp/password
    printf 'host all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
    postgres --single -j -D "$PGDATA" postgres <<'SQL' > /dev/null
CREATE DATABASE luthier OWNER luthier;
SQL
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
