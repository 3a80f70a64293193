#!/bin/sh
# A PostgreSQL server on every address, with a database and a user for each name in $DATABASES and one password for all.
set -eu
export PATH="$(echo /usr/lib/postgresql/*/bin):$PATH" PGPASSWORD="$PASSWORD" PGHOST=/tmp PGUSER=admin
if [ ! -d /tmp/data ]; then
    printf '%s' "$PASSWORD" > /tmp/password
    initdb --pgdata /tmp/data --username admin --auth scram-sha-256 --pwfile /tmp/password --no-sync --encoding UTF8 > /dev/null
    echo 'host all all all scram-sha-256' >> /tmp/data/pg_hba.conf
    pg_ctl --pgdata /tmp/data --options '-k /tmp -c listen_addresses=' --wait start > /dev/null
    for name in $DATABASES; do
        psql --quiet --dbname postgres --command "create role $name login password '$PASSWORD'" --command "create database $name owner $name"
    done
    pg_ctl --pgdata /tmp/data --wait stop > /dev/null
fi
exec postgres -D /tmp/data -k /tmp -c listen_addresses='*' -c fsync=off -c max_connections=200
