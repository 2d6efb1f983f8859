//! Connection strings, the odd ones of libpq's own tests among them.

use super::*;

/// Returns the parameters as text, `key=value` with commas.
fn read(text: &str) -> Result<String, ConninfoError> {
    let parameters = parse(text)?;
    let pairs: Vec<String> = parameters
        .iter()
        .map(|Parameter { keyword, value }| format!("{}={value}", keyword.name()))
        .collect();
    Ok(pairs.join(", "))
}

#[test]
fn urls_are_split_before_they_are_decoded() {
    for (text, expected) in [
        ("postgresql://", ""),
        ("postgres://h", "host=h"),
        (
            "postgresql://u:p@h:1/d?sslmode=require",
            "user=u, password=p, host=h, port=1, dbname=d, sslmode=require",
        ),
        (
            "postgresql://u:p@h?user=a@b",
            "user=u, password=p, host=h, user=a@b",
        ),
        (
            "postgresql://u%40x:p%3Aq@h",
            "user=u@x, password=p:q, host=h",
        ),
        // The first colon ends the user, the first @ the password.
        ("postgresql://u:a:b@h", "user=u, password=a:b, host=h"),
        // An @ behind a slash ends nothing.
        ("postgresql://h/a@b", "host=h, dbname=a@b"),
        ("postgresql://@h/", "host=h"),
        ("postgresql://:5433/d", "port=5433, dbname=d"),
        ("postgresql://[::1]:2/d", "host=::1, port=2, dbname=d"),
        (
            "postgresql://a:1,[::2],c:3/d",
            "host=a,::2,c, port=1,,3, dbname=d",
        ),
        (
            "postgresql://%2Ftmp%2Fx:1/d",
            "host=/tmp/x, port=1, dbname=d",
        ),
        ("postgresql:///d?host=a&host=b", "dbname=d, host=a, host=b"),
        ("postgresql://h?user=u&", "host=h, user=u"),
        ("postgresql://h/d#x", "host=h, dbname=d#x"),
        ("postgresql://h/a+b", "host=h, dbname=a+b"),
        ("postgresql://h?ssl=true", "host=h, sslmode=require"),
        ("postgresql://h?%75ser=u", "host=h, user=u"),
        ("postgresql://h?sslmode=", "host=h, sslmode="),
    ] {
        assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn broken_urls_are_refused() {
    for (text, expected) in [
        ("postgresql://h/%zz", ConninfoError::Percent),
        ("postgresql://h/%4", ConninfoError::Percent),
        ("postgresql://h/%", ConninfoError::Percent),
        ("postgresql://h/a%00", ConninfoError::Null),
        ("postgresql://h/%ff", ConninfoError::NotUtf8),
        // The rest of a password would be taken for a host, a socket or a database.
        ("postgresql://u:a@b@h", ConninfoError::SecondAt),
        ("postgresql://u:a@@h", ConninfoError::SecondAt),
        ("postgresql://u:a@b/c@h/d", ConninfoError::SecondAt),
        ("postgresql://h/a b", ConninfoError::Blank),
        ("postgresql://[::1", ConninfoError::OpenBracket),
        ("postgresql://[]", ConninfoError::EmptyAddress),
        ("postgresql://[::1]x", ConninfoError::BehindBracket),
        ("postgresql://h?user", ConninfoError::NoValue),
        ("postgresql://h?user=1&&port=2", ConninfoError::NoValue),
        ("postgresql://h?user=a=b", ConninfoError::TwoEquals),
        ("postgresql://h?nonsense=1", ConninfoError::UnknownKeyword),
        (
            "postgresql://h?SSLMODE=disable",
            ConninfoError::NearKeyword("sslmode"),
        ),
        ("postgresql://h?ssl=false", ConninfoError::UnknownKeyword),
        ("pg://h", ConninfoError::Scheme("pg".to_string())),
        ("a'b://h", ConninfoError::NotUnderstood),
    ] {
        assert_eq!(read(text), Err(expected), "{text}");
    }
}

#[test]
fn pairs_are_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("", ""),
        ("host=h port = 1", "host=h, port=1"),
        (" host =h\tport=\n1\r\n", "host=h, port=1"),
        ("host='a b'port=1", "host=a b, port=1"),
        ("password='a\\'b\\\\c'", "password=a'b\\c"),
        ("password=a\\ b", "password=a b"),
        ("user=o'br", "user=o'br"),
        // A value that is left out is the next word.
        ("user= dbname=d", "user=dbname=d"),
        ("dbname=", "dbname="),
        ("dbname=a%20b", "dbname=a%20b"),
        ("dbname=d\\", "dbname=d"),
        ("requiressl=1", "sslmode=require"),
        ("requiressl=0", "sslmode=prefer"),
        ("dbname=postgresql://h/d", "dbname=postgresql://h/d"),
        // psql's `-d shop`.
        ("shop", "dbname=shop"),
    ] {
        assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
    }
    for (text, expected) in [
        ("host=h app", ConninfoError::NoValue),
        ("user='a", ConninfoError::OpenQuote),
        ("HOST=h", ConninfoError::NearKeyword("host")),
        ("'host'=h", ConninfoError::UnknownKeyword),
        ("tty=x", ConninfoError::UnknownKeyword),
        ("u:p@h", ConninfoError::NoValue),
    ] {
        assert_eq!(read(text), Err(expected), "{text}");
    }
}
