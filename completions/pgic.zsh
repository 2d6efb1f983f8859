#compdef pgic

autoload -U is-at-least

_pgic() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
":: :_pgic_commands" \
"*::: :->pgic" \
&& ret=0
    case $state in
    (pgic)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:pgic-command-$line[1]:"
        case $line[1] in
            (install-triggers)
_arguments "${_arguments_options[@]}" : \
'()*--schema=[The schemas for --all; may be repeated]:SCHEMA:_default' \
'*--exclude=[With --all\: but not these tables]:TABLE:_default' \
'--channel=[The channel to notify on \[default\: as installed, else cache_invalidation\]]:NAME:_default' \
'(--no-data)*--columns=[Send these columns alone, and the key]:A,B:_default' \
'(--columns --no-data)*--exclude-columns=[Send all columns but these; those of the key are always sent]:A,B:_default' \
'--lock-timeout=[How long to wait for the tables'\'' locks, all together]:TIME:_default' \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'()--all[Every table of a schema that has a key]' \
'(--all --channel --columns --exclude-columns --no-data --on-change --always --no-truncate --no-guard --generic --defaults)--from-config[The tables of pgic.toml, each with its options there]' \
'--no-data[Send keys only\: a cache reads the rows itself]' \
'--on-change[Do not announce an UPDATE that changes nothing that is sent]' \
'--always[Fire under session_replication_role = replica too]' \
'--no-truncate[Do not announce TRUNCATE]' \
'--no-guard[Let a failure of the trigger fail the write]' \
'--generic[Call the schema'\''s one notify_cache_change() instead of a function of the table'\''s own; the key must be called id]' \
'--defaults[Reset the options that are not given, which otherwise stay as installed]' \
'--replace-function[Replace a function of the needed name that pgic did not make; its triggers stay]' \
'--replace-trigger[Take the place of a trigger of the needed name that pgic did not make, such as the specification'\''s own; its function stays]' \
'--dry-run[Show the steps, and take none]' \
'(--print-sql)--check[As --dry-run, and end with 1 if something would be done]' \
'(--dry-run -o --output)--print-sql[Print the SQL as a migration file that may be run again, and do nothing; remove-triggers prints the inverse]' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
'*::tables -- Tables\: users, app.users or '\''"Odd Name"'\'':_default' \
&& ret=0
;;
(remove-triggers)
_arguments "${_arguments_options[@]}" : \
'()*--schema=[With --all\: those of these schemas alone; may be repeated]:SCHEMA:_default' \
'*--exclude=[With --all\: but not these tables]:TABLE:_default' \
'--lock-timeout=[How long to wait for the tables'\'' locks, all together]:TIME:_default' \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'()--all[Every table of the database that has them]' \
'-y[Do not ask before all triggers are removed; without a terminal, --all needs this or --schema]' \
'--yes[Do not ask before all triggers are removed; without a terminal, --all needs this or --schema]' \
'--dry-run[Show the steps, and take none]' \
'(--dry-run -o --output)--print-sql[Print the SQL as a migration file that may be run again, and do nothing\: the inverse of install-triggers'\'']' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
'*::tables -- Tables\: users, app.users or '\''"Odd Name"'\'':_default' \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
'*::tables -- Tables\: users, app.users or '\''"Odd Name"'\'' \[default\: every table with triggers\]:_default' \
&& ret=0
;;
(tail)
_arguments "${_arguments_options[@]}" : \
'*-c+[A channel to listen on; may be repeated \[default\: PGIC_CHANNEL, else cache_invalidation\]]:NAME:_default' \
'*--channel=[A channel to listen on; may be repeated \[default\: PGIC_CHANNEL, else cache_invalidation\]]:NAME:_default' \
'*-t+[The same as a TABLE; several with commas]:TABLE:_default' \
'*--table=[The same as a TABLE; several with commas]:TABLE:_default' \
'*--action=[Only this action\: insert, update, delete, truncate or reload]:ACTION:_default' \
'*--id=[Only the row with this key; a composite key is written a,b]:KEY:_default' \
'*--where=[Only rows that fulfil this condition, as pgic query takes it; all of several must hold]:CONDITION:_default' \
'(-t --table -c --channel --action --id --where --raw --template --stats --sender --all)--diff=[Keep this table in a cache, and show the effect of each change on the rows, old to new; a gap is told row by row]:TABLE:_default' \
'-n+[Stop after this many notifications]:N:_default' \
'--count=[Stop after this many notifications]:N:_default' \
'--duration=[Stop after this time]:TIME:_default' \
'(--raw -o --output)--template=[Print a line of this form for each change\: '\''{table} {key} {row.status}'\'']:TEXT:_default' \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'--sender[Say who sent each notification\: the role, the application and the address of its session]' \
'--all[On a terminal, show each change of a large transaction, not one line for all]' \
'(--raw --template)--stats[Print no notifications; at the end print counts, rates, sizes and ages by table and action]' \
'(-o --output)--raw[Print the payloads alone]' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
'*::tables -- Only changes of these tables\: users, or app.users:_default' \
&& ret=0
;;
(query)
_arguments "${_arguments_options[@]}" : \
'--max-memory=[The most memory for the cache \[default\: a quarter of the machine'\''s memory\]]:SIZE:_default' \
'*-c+[Show these columns alone]:A,B:_default' \
'*--columns=[Show these columns alone]:A,B:_default' \
'-n+[Show at most this many rows]:N:_default' \
'--limit=[Show at most this many rows]:N:_default' \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'(--count -n --limit)--watch[Keep the cache live and print the answer again whenever it changes; with -o json the rows that were added, changed and removed]' \
'--count[Print the number of rows alone]' \
'--explain[Say on stderr how the answer was found]' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
':table -- The table\: users, app.users or '\''"Odd Name"'\'':_default' \
'*::conditions -- The key of a row (42, or 42,2), or conditions that the rows must fulfil:_default' \
&& ret=0
;;
(shell)
_arguments "${_arguments_options[@]}" : \
'--max-memory=[The most memory for the caches \[default\: a quarter of the machine'\''s memory\]]:SIZE:_default' \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
'*::tables -- The tables\: users, app.users or '\''"Odd Name"'\'':_default' \
&& ret=0
;;
(verify)
_arguments "${_arguments_options[@]}" : \
'(--rounds)--for=[How long to follow before the comparison]:TIME:_default' \
'--rounds=[Compare so many times, at once and one after another]:N:_default' \
'--min-changes=[Exit with 1 when fewer changes than this were followed\: with none, nothing was proven]:N:_default' \
'--max-memory=[The most memory for the caches \[default\: a quarter of the machine'\''s memory\]]:SIZE:_default' \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
'*::tables -- The tables\: users, app.users or '\''"Odd Name"'\'':_default' \
&& ret=0
;;
(demo)
_arguments "${_arguments_options[@]}" : \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'--keep[Leave the server running with a writer, and print the URL]' \
'(--keep)--write[Write to the server of DATABASE_URL until it stops\: the writer of --keep]' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
&& ret=0
;;
(completions)
_arguments "${_arguments_options[@]}" : \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
':shell -- The shell:(bash elvish fish powershell zsh)' \
&& ret=0
;;
(man)
_arguments "${_arguments_options[@]}" : \
'()--dir=[Write all pages into this folder, which is made if it is missing]:DIR:_files' \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
'::command -- The command or topic that the page is about:_default' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
'-o+[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'--output=[How answers are printed \[default\: text\]]:FORMAT:((text\:"Text for people"
json\:"JSON for programs, one object on each line"))' \
'-x+[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--expanded=[When the columns of a row stand below each other\: auto is on a terminal, for one row or if the table is wider]::WHEN:((auto\:"On a terminal, for one row, or if the table is wider than the terminal"
on\:"Always"
off\:"Never"))' \
'--color=[When to use colour \[default\: auto\]]:WHEN:(auto always never)' \
'-d+[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'--database-url=[Where to connect\: a postgresql\:// URL, a key=value string, or a database'\''s name]:URL:_default' \
'(-d --database-url)--connection=[Connect as pgic.toml says under this name]:NAME:_default' \
'--config=[The file of settings \[default\: pgic.toml, upwards from here\]]:FILE:_files' \
'--password-command=[A command that prints the password, run for each connection]:COMMAND:_default' \
'(-x --expanded)--wide[Keep rows in a table, however wide\: the same as --expanded=off]' \
'--utc[Show times in UTC]' \
'-q[Print no notices and no progress]' \
'--quiet[Print no notices and no progress]' \
'(-q --quiet)*-v[Trace pgic'\''s work to stderr; twice for more]' \
'(-q --quiet)*--verbose[Trace pgic'\''s work to stderr; twice for more]' \
'(-W --password)-w[Never ask for a password]' \
'(-W --password)--no-password[Never ask for a password]' \
'-W[Ask for a password before connecting]' \
'--password[Ask for a password before connecting]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
'::about -- A command, or a topic\: conditions, json, config, recipes, privileges:_default' \
&& ret=0
;;
        esac
    ;;
esac
}

(( $+functions[_pgic_commands] )) ||
_pgic_commands() {
    local commands; commands=(
'install-triggers:Create or refresh the triggers that announce changes of tables' \
'remove-triggers:Drop the triggers that pgic made' \
'status:Show which tables announce their changes, who listens, and how full the queue is' \
'tail:Print notifications as they arrive' \
'query:Load a table into a cache, catch up, and answer from the cache' \
'shell:Keep tables in live caches, and ask questions at a prompt' \
'verify:Compare a cache that is fed by notifications with its table, at one exact cut' \
'demo:Show the other commands at work on a throw-away PostgreSQL' \
'completions:Print a completion script for a shell' \
'man:Print a man page, or write all of them into a folder' \
'help:Print the help of a command, or a page about a topic' \
    )
    _describe -t commands 'pgic commands' commands "$@"
}
(( $+functions[_pgic__subcmd__completions_commands] )) ||
_pgic__subcmd__completions_commands() {
    local commands; commands=()
    _describe -t commands 'pgic completions commands' commands "$@"
}
(( $+functions[_pgic__subcmd__demo_commands] )) ||
_pgic__subcmd__demo_commands() {
    local commands; commands=()
    _describe -t commands 'pgic demo commands' commands "$@"
}
(( $+functions[_pgic__subcmd__help_commands] )) ||
_pgic__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'pgic help commands' commands "$@"
}
(( $+functions[_pgic__subcmd__install-triggers_commands] )) ||
_pgic__subcmd__install-triggers_commands() {
    local commands; commands=()
    _describe -t commands 'pgic install-triggers commands' commands "$@"
}
(( $+functions[_pgic__subcmd__man_commands] )) ||
_pgic__subcmd__man_commands() {
    local commands; commands=()
    _describe -t commands 'pgic man commands' commands "$@"
}
(( $+functions[_pgic__subcmd__query_commands] )) ||
_pgic__subcmd__query_commands() {
    local commands; commands=()
    _describe -t commands 'pgic query commands' commands "$@"
}
(( $+functions[_pgic__subcmd__remove-triggers_commands] )) ||
_pgic__subcmd__remove-triggers_commands() {
    local commands; commands=()
    _describe -t commands 'pgic remove-triggers commands' commands "$@"
}
(( $+functions[_pgic__subcmd__shell_commands] )) ||
_pgic__subcmd__shell_commands() {
    local commands; commands=()
    _describe -t commands 'pgic shell commands' commands "$@"
}
(( $+functions[_pgic__subcmd__status_commands] )) ||
_pgic__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'pgic status commands' commands "$@"
}
(( $+functions[_pgic__subcmd__tail_commands] )) ||
_pgic__subcmd__tail_commands() {
    local commands; commands=()
    _describe -t commands 'pgic tail commands' commands "$@"
}
(( $+functions[_pgic__subcmd__verify_commands] )) ||
_pgic__subcmd__verify_commands() {
    local commands; commands=()
    _describe -t commands 'pgic verify commands' commands "$@"
}

if [ "$funcstack[1]" = "_pgic" ]; then
    _pgic "$@"
else
    compdef _pgic pgic
fi
