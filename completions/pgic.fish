# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_pgic_global_optspecs
    string join \n o/output= x/expanded= wide color= utc q/quiet v/verbose d/database-url= connection= config= w/no-password W/password password-command= h/help V/version
end

function __fish_pgic_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_pgic_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_pgic_using_subcommand
    set -l cmd (__fish_pgic_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c pgic -n "__fish_pgic_needs_command" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_needs_command" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_needs_command" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_needs_command" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_needs_command" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_needs_command" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_needs_command" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_needs_command" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_needs_command" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_needs_command" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_needs_command" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_needs_command" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_needs_command" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_needs_command" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "install-triggers" -d 'Create or refresh the triggers that announce changes of tables'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "remove-triggers" -d 'Drop the triggers that pgic made'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "status" -d 'Show which tables announce their changes, who listens, and how full the queue is'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "tail" -d 'Print notifications as they arrive'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "query" -d 'Load a table into a cache, catch up, and answer from the cache'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "shell" -d 'Keep tables in live caches, and ask questions at a prompt'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "verify" -d 'Compare a cache that is fed by notifications with its table, at one exact cut'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "demo" -d 'Show the other commands at work on a throw-away PostgreSQL'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "completions" -d 'Print a completion script for a shell'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "man" -d 'Print a man page, or write all of them into a folder'
complete -c pgic -n "__fish_pgic_needs_command" -f -a "help" -d 'Print the help of a command, or a page about a topic'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l schema -d 'The schemas for --all; may be repeated' -r
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l exclude -d 'With --all: but not these tables' -r
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l channel -d 'The channel to notify on [default: as installed, else cache_invalidation]' -r
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l columns -d 'Send these columns alone, and the key' -r
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l exclude-columns -d 'Send all columns but these; those of the key are always sent' -r
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l lock-timeout -d 'How long to wait for the tables\' locks, all together' -r
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l all -d 'Every table of a schema that has a key'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l from-config -d 'The tables of pgic.toml, each with its options there'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l no-data -d 'Send keys only: a cache reads the rows itself'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l on-change -d 'Do not announce an UPDATE that changes nothing that is sent'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l always -d 'Fire under session_replication_role = replica too'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l no-truncate -d 'Do not announce TRUNCATE'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l no-guard -d 'Let a failure of the trigger fail the write'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l generic -d 'Call the schema\'s one notify_cache_change() instead of a function of the table\'s own; the key must be called id'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l defaults -d 'Reset the options that are not given, which otherwise stay as installed'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l replace-function -d 'Replace a function of the needed name that pgic did not make; its triggers stay'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l replace-trigger -d 'Take the place of a trigger of the needed name that pgic did not make, such as the specification\'s own; its function stays'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l dry-run -d 'Show the steps, and take none'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l check -d 'As --dry-run, and end with 1 if something would be done'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l print-sql -d 'Print the SQL as a migration file that may be run again, and do nothing; remove-triggers prints the inverse'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand install-triggers" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l schema -d 'With --all: those of these schemas alone; may be repeated' -r
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l exclude -d 'With --all: but not these tables' -r
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l lock-timeout -d 'How long to wait for the tables\' locks, all together' -r
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l all -d 'Every table of the database that has them'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s y -l yes -d 'Do not ask before all triggers are removed; without a terminal, --all needs this or --schema'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l dry-run -d 'Show the steps, and take none'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l print-sql -d 'Print the SQL as a migration file that may be run again, and do nothing: the inverse of install-triggers\''
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand remove-triggers" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand status" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand status" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand status" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand status" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand status" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand status" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand status" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand status" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand status" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand status" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand status" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand status" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand status" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand status" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s c -l channel -d 'A channel to listen on; may be repeated [default: PGIC_CHANNEL, else cache_invalidation]' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s t -l table -d 'The same as a TABLE; several with commas' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l action -d 'Only this action: insert, update, delete, truncate or reload' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l id -d 'Only the row with this key; a composite key is written a,b' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l where -d 'Only rows that fulfil this condition, as pgic query takes it; all of several must hold' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l diff -d 'Keep this table in a cache, and show the effect of each change on the rows, old to new; a gap is told row by row' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s n -l count -d 'Stop after this many notifications' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l duration -d 'Stop after this time' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l template -d 'Print a line of this form for each change: \'{table} {key} {row.status}\'' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l sender -d 'Say who sent each notification: the role, the application and the address of its session'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l all -d 'On a terminal, show each change of a large transaction, not one line for all'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l stats -d 'Print no notifications; at the end print counts, rates, sizes and ages by table and action'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l raw -d 'Print the payloads alone'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand tail" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand query" -l max-memory -d 'The most memory for the cache [default: a quarter of the machine\'s memory]' -r
complete -c pgic -n "__fish_pgic_using_subcommand query" -s c -l columns -d 'Show these columns alone' -r
complete -c pgic -n "__fish_pgic_using_subcommand query" -s n -l limit -d 'Show at most this many rows' -r
complete -c pgic -n "__fish_pgic_using_subcommand query" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand query" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand query" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand query" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand query" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand query" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand query" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand query" -l watch -d 'Keep the cache live and print the answer again whenever it changes; with -o json the rows that were added, changed and removed'
complete -c pgic -n "__fish_pgic_using_subcommand query" -l count -d 'Print the number of rows alone'
complete -c pgic -n "__fish_pgic_using_subcommand query" -l explain -d 'Say on stderr how the answer was found'
complete -c pgic -n "__fish_pgic_using_subcommand query" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand query" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand query" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand query" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand query" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand query" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand query" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand query" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand shell" -l max-memory -d 'The most memory for the caches [default: a quarter of the machine\'s memory]' -r
complete -c pgic -n "__fish_pgic_using_subcommand shell" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand shell" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand shell" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand shell" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand shell" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand shell" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand shell" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand shell" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand shell" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand shell" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand shell" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand shell" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand shell" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand shell" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand shell" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l for -d 'How long to follow before the comparison' -r
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l rounds -d 'Compare so many times, at once and one after another' -r
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l min-changes -d 'Exit with 1 when fewer changes than this were followed: with none, nothing was proven' -r
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l max-memory -d 'The most memory for the caches [default: a quarter of the machine\'s memory]' -r
complete -c pgic -n "__fish_pgic_using_subcommand verify" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand verify" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand verify" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand verify" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand verify" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand verify" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand verify" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand verify" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand verify" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand demo" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand demo" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand demo" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand demo" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand demo" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand demo" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand demo" -l keep -d 'Leave the server running with a writer, and print the URL'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -l write -d 'Write to the server of DATABASE_URL until it stops: the writer of --keep'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand demo" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand completions" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand completions" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand completions" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand completions" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand completions" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand completions" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand completions" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand completions" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand completions" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand completions" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand completions" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand completions" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand completions" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand completions" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand man" -l dir -d 'Write all pages into this folder, which is made if it is missing' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand man" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand man" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand man" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand man" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand man" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand man" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand man" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand man" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand man" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand man" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand man" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand man" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand man" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand man" -s V -l version -d 'Print version'
complete -c pgic -n "__fish_pgic_using_subcommand help" -s o -l output -d 'How answers are printed [default: text]' -r -f -a "text\t'Text for people'
json\t'JSON for programs, one object on each line'"
complete -c pgic -n "__fish_pgic_using_subcommand help" -s x -l expanded -d 'When the columns of a row stand below each other: auto is on a terminal, for one row or if the table is wider' -r -f -a "auto\t'On a terminal, for one row, or if the table is wider than the terminal'
on\t'Always'
off\t'Never'"
complete -c pgic -n "__fish_pgic_using_subcommand help" -l color -d 'When to use colour [default: auto]' -r -f -a "auto\t''
always\t''
never\t''"
complete -c pgic -n "__fish_pgic_using_subcommand help" -s d -l database-url -d 'Where to connect: a postgresql:// URL, a key=value string, or a database\'s name' -r
complete -c pgic -n "__fish_pgic_using_subcommand help" -l connection -d 'Connect as pgic.toml says under this name' -r
complete -c pgic -n "__fish_pgic_using_subcommand help" -l config -d 'The file of settings [default: pgic.toml, upwards from here]' -r -F
complete -c pgic -n "__fish_pgic_using_subcommand help" -l password-command -d 'A command that prints the password, run for each connection' -r
complete -c pgic -n "__fish_pgic_using_subcommand help" -l wide -d 'Keep rows in a table, however wide: the same as --expanded=off'
complete -c pgic -n "__fish_pgic_using_subcommand help" -l utc -d 'Show times in UTC'
complete -c pgic -n "__fish_pgic_using_subcommand help" -s q -l quiet -d 'Print no notices and no progress'
complete -c pgic -n "__fish_pgic_using_subcommand help" -s v -l verbose -d 'Trace pgic\'s work to stderr; twice for more'
complete -c pgic -n "__fish_pgic_using_subcommand help" -s w -l no-password -d 'Never ask for a password'
complete -c pgic -n "__fish_pgic_using_subcommand help" -s W -l password -d 'Ask for a password before connecting'
complete -c pgic -n "__fish_pgic_using_subcommand help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgic -n "__fish_pgic_using_subcommand help" -s V -l version -d 'Print version'
