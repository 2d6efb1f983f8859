# Finds PgBouncer, which the tests take, or installs it. Sourced behind find-server.sh.

pgic_has_pooler() {
    PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v pgbouncer >/dev/null 2>&1
}

pgic_install_pooler() {
    echo "PgBouncer is not here; installing it with the system's package manager" >&2
    if command -v apt-get >/dev/null 2>&1; then
        pgic_as_root apt-get update && pgic_as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y pgbouncer
    elif command -v dnf >/dev/null 2>&1; then
        pgic_as_root dnf install -y pgbouncer
    elif command -v apk >/dev/null 2>&1; then
        pgic_as_root apk add pgbouncer
    elif command -v brew >/dev/null 2>&1; then
        brew install pgbouncer
    else
        echo "no apt-get, dnf, apk or brew here: install PgBouncer by hand" >&2
        return 1
    fi
}

pgic_has_pooler || pgic_install_pooler || exit 2
