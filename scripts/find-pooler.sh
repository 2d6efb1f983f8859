# Finds PgBouncer, which the tests take, or installs it. Sourced behind find-server.sh.

pgic_has_pooler() {
    PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v pgbouncer >/dev/null 2>&1
}

pgic_has_pooler || pgic_install PgBouncer pgbouncer pgbouncer pgbouncer pgbouncer || exit 2
