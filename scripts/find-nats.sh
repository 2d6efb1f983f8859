# Finds the NATS server, which the tests take, or installs it. Sourced behind find-server.sh.

pgic_has_nats() {
    PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v nats-server >/dev/null 2>&1
}

pgic_has_nats || pgic_install "a NATS server" nats-server nats-server nats-server nats-server || exit 2
