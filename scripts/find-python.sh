# Finds Python with psycopg, in which a node of the tests is written, or installs it. Sourced behind find-server.sh.

pgic_has_psycopg() {
    # The package of the system is for the system's Python, which another one may hide.
    for python in python3 /usr/bin/python3; do
        "$python" -c 'import psycopg' >/dev/null 2>&1 && return 0
    done
    return 1
}

pgic_has_psycopg || pgic_install psycopg python3-psycopg python3-psycopg3 py3-psycopg python-psycopg || exit 2
