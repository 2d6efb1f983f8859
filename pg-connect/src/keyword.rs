//! [`Keyword`]: the parameters of a connection string (manual, 34.1.2 Parameter Key Words), and the
//! environment variable of each (34.15 Environment Variables).

/// Declares the keywords, each with the name of its variable.
macro_rules! keywords {
    ($($variant:ident $name:literal $variable:literal,)*) => {
        /// A parameter of a connection string.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Keyword {
            $($variant,)*
        }

        impl Keyword {
            /// All keywords.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the keyword as it is written in a connection string.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Returns the name of the environment variable; `None` if there is none.
            pub(crate) fn variable(self) -> Option<&'static str> {
                let variable = match self {
                    $(Self::$variant => $variable,)*
                };
                Some(variable).filter(|variable| !variable.is_empty())
            }
        }
    };
}

keywords! {
    ApplicationName "application_name" "PGAPPNAME",
    ChannelBinding "channel_binding" "PGCHANNELBINDING",
    ClientEncoding "client_encoding" "PGCLIENTENCODING",
    ConnectTimeout "connect_timeout" "PGCONNECT_TIMEOUT",
    Dbname "dbname" "PGDATABASE",
    FallbackApplicationName "fallback_application_name" "",
    GssDelegation "gssdelegation" "PGGSSDELEGATION",
    GssEncMode "gssencmode" "PGGSSENCMODE",
    GssLib "gsslib" "PGGSSLIB",
    Host "host" "PGHOST",
    HostAddr "hostaddr" "PGHOSTADDR",
    Keepalives "keepalives" "",
    KeepalivesCount "keepalives_count" "",
    KeepalivesIdle "keepalives_idle" "",
    KeepalivesInterval "keepalives_interval" "",
    KrbSrvName "krbsrvname" "PGKRBSRVNAME",
    LoadBalanceHosts "load_balance_hosts" "PGLOADBALANCEHOSTS",
    MaxProtocolVersion "max_protocol_version" "PGMAXPROTOCOLVERSION",
    MinProtocolVersion "min_protocol_version" "PGMINPROTOCOLVERSION",
    OauthClientId "oauth_client_id" "",
    OauthClientSecret "oauth_client_secret" "",
    OauthIssuer "oauth_issuer" "",
    OauthScope "oauth_scope" "",
    Options "options" "PGOPTIONS",
    Passfile "passfile" "PGPASSFILE",
    Password "password" "PGPASSWORD",
    Port "port" "PGPORT",
    Replication "replication" "",
    RequireAuth "require_auth" "PGREQUIREAUTH",
    RequirePeer "requirepeer" "PGREQUIREPEER",
    ScramClientKey "scram_client_key" "",
    ScramServerKey "scram_server_key" "",
    Service "service" "PGSERVICE",
    SslCert "sslcert" "PGSSLCERT",
    SslCertMode "sslcertmode" "PGSSLCERTMODE",
    SslCompression "sslcompression" "PGSSLCOMPRESSION",
    SslCrl "sslcrl" "PGSSLCRL",
    SslCrlDir "sslcrldir" "PGSSLCRLDIR",
    SslKey "sslkey" "PGSSLKEY",
    SslKeyLogFile "sslkeylogfile" "",
    SslMaxProtocolVersion "ssl_max_protocol_version" "PGSSLMAXPROTOCOLVERSION",
    SslMinProtocolVersion "ssl_min_protocol_version" "PGSSLMINPROTOCOLVERSION",
    SslMode "sslmode" "PGSSLMODE",
    SslNegotiation "sslnegotiation" "PGSSLNEGOTIATION",
    SslPassword "sslpassword" "",
    SslRootCert "sslrootcert" "PGSSLROOTCERT",
    SslSni "sslsni" "PGSSLSNI",
    TargetSessionAttrs "target_session_attrs" "PGTARGETSESSIONATTRS",
    TcpUserTimeout "tcp_user_timeout" "",
    User "user" "PGUSER",
}

impl Keyword {
    /// Returns the keyword that is written so; upper case is not known.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|keyword| keyword.name() == name)
    }
}
