// Keeps a table in step as a map of its rows by key, and prints them as JSON for each line of stdin.
//
// go run consumer.go "host=localhost dbname=mydb sslmode=disable" public users     It takes github.com/lib/pq; docs/payload.md is the contract.
// For a table whose key is the column id, and whose triggers send all rows and columns. It ends when the connection is lost.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/lib/pq"
)

// Change is a payload, or one of the rows in it.
type Change struct {
	Table, Action, Xid string
	Schema             *string
	ID, Data           json.RawMessage // Raw: a float of Go has 53 bits.
	Recheck, Reread    bool
	Rows               []json.RawMessage
}

// Texts of values as the triggers write them.
const asTriggers = `SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET bytea_output = 'hex'`

var (
	ctx         = context.Background()
	read        *sql.Conn
	schema      = os.Args[2]
	table       = os.Args[3]
	rows        = map[string]json.RawMessage{}
	transaction string
	announced   map[string]bool
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// fetch reads rows into the map. A row as JSON is what a payload has as `data`.
func fetch(where string, args ...any) {
	name := pq.QuoteIdentifier(schema) + "." + pq.QuoteIdentifier(table)
	found := must(read.QueryContext(ctx, "SELECT id::text, row_to_json(t)::text FROM "+name+" t"+where, args...))
	defer found.Close()
	for found.Next() {
		var id, row string
		must(0, found.Scan(&id, &row))
		rows[id] = json.RawMessage(row)
	}
	must(0, found.Err())
}

func apply(change Change) {
	var id string
	if json.Unmarshal(change.ID, &id) != nil {
		id = string(change.ID) // The digits of a number.
	}
	if change.Xid == "" || change.Xid != transaction {
		transaction, announced = change.Xid, map[string]bool{}
	}
	isDelete := change.Action == "delete"
	switch {
	case change.Action == "truncate" || change.Action == "reload":
		rows = map[string]json.RawMessage{}
		fetch("")
		return
	case !isDelete && change.Action != "insert" && change.Action != "update" || change.ID == nil:
		return
	// What a transaction announces of one key need not be in the order in which it was done: triggers nest.
	case change.Recheck || change.Reread || announced[id] || !isDelete && change.Data == nil:
		delete(rows, id)
		fetch(" WHERE id = $1", id)
	case isDelete:
		delete(rows, id)
	default:
		rows[id] = change.Data
	}
	announced[id] = true
}

func take(payload string) {
	defer func() { // Any role can send anything, such as an id that is none of the table (class 22).
		switch err := recover().(type) {
		case nil:
		case *json.SyntaxError, *json.UnmarshalTypeError:
			log.Print("not understood: ", err)
		case *pq.Error:
			if !strings.HasPrefix(string(err.Code), "22") {
				panic(err)
			}
			log.Print("not understood: ", err)
		default:
			panic(err)
		}
	}()
	var shared Change
	must(0, json.Unmarshal([]byte(payload), &shared))
	if shared.Table != table || shared.Schema != nil && *shared.Schema != schema {
		return
	}
	if shared.Rows == nil {
		apply(shared)
	}
	for _, row := range shared.Rows { // Many rows in one payload: what is beside them belongs to each.
		change := shared
		change.ID, change.Data = nil, nil
		must(0, json.Unmarshal(row, &change))
		apply(change)
	}
}

func main() {
	read = must(must(sql.Open("postgres", os.Args[1])).Conn(ctx))
	must(read.ExecContext(ctx, asTriggers))
	listener := pq.NewListener(os.Args[1], time.Second, time.Minute, func(event pq.ListenerEventType, err error) {
		if event != pq.ListenerEventConnected {
			log.Fatal(err) // What is announced until it is back would be lost.
		}
	})
	must(0, listener.Listen("cache_invalidation")) // Before the table is read: no change falls between.
	fetch("")
	fmt.Println("live")
	lines := make(chan string)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
		os.Exit(0)
	}()
	for {
		select {
		case sent := <-listener.Notify:
			take(sent.Extra)
		case <-lines:
			must(0, json.NewEncoder(os.Stdout).Encode(rows))
		}
	}
}
