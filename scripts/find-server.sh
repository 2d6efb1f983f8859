# Finds PostgreSQL's server programs, or installs them. Sourced by the scripts beside it; says what it does.

# The folders of programs that are usable together. pgic itself looks in the same places.
pgic_has_server() {
    [ -n "${PGIC_PG_BIN:-}" ] && [ -x "$PGIC_PG_BIN/initdb" ] && return 0
    command -v initdb >/dev/null 2>&1 && command -v pg_ctl >/dev/null 2>&1 && return 0
    if command -v pg_config >/dev/null 2>&1 && [ -x "$(pg_config --bindir)/initdb" ]; then return 0; fi
    for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql*/ /usr/lib/postgresql*/bin \
        /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin /opt/local/lib/postgresql*/bin /usr/local/pgsql/bin; do
        [ -x "$folder/initdb" ] && return 0
    done
    return 1
}

pgic_as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        echo "+ sudo $*" >&2
        sudo "$@"
    else
        echo "to install what is missing takes root; run: $*" >&2
        return 1
    fi
}

# Installs a program with the system's package manager: what it is, then its package for apt-get, dnf, apk and brew.
pgic_install() {
    echo "$1 is not here; installing it with the system's package manager" >&2
    if command -v apt-get >/dev/null 2>&1; then
        pgic_as_root apt-get update && pgic_as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y "$2"
    elif command -v dnf >/dev/null 2>&1; then
        pgic_as_root dnf install -y "$3"
    elif command -v apk >/dev/null 2>&1; then
        pgic_as_root apk add "$4"
    elif command -v brew >/dev/null 2>&1; then
        brew install "$5"
    else
        echo "no apt-get, dnf, apk or brew here: install $1 by hand" >&2
        return 1
    fi
}

pgic_need_cargo() {
    command -v cargo >/dev/null 2>&1 && return 0
    echo "cargo is missing: install the Rust toolchain (https://rustup.rs) and try again" >&2
    return 1
}

pgic_need_cargo || exit 2
if ! pgic_has_server; then
    pgic_install "PostgreSQL's server" postgresql postgresql-server postgresql postgresql || exit 2
    pgic_has_server || { echo "PostgreSQL was installed, but its programs are in no known folder: name it in PGIC_PG_BIN" >&2; exit 2; }
fi
