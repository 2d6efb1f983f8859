-- Types and keys of every kind, in two schemas, under names that must be quoted.
CREATE EXTENSION citext;
CREATE EXTENSION hstore;
CREATE EXTENSION ltree;
CREATE SCHEMA "Shop";
SET search_path = "Shop", public;

CREATE TYPE state AS ENUM ('new', 'paid', 'it''s "odd"', 'ünïcode', 'NULL');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN quantity AS positive DEFAULT 1;
CREATE DOMAIN tags AS text[];
CREATE TYPE money_of AS (amount numeric(12, 2), currency char(3));
CREATE TYPE item AS (name text, price money_of, "when" timestamptz);
CREATE TYPE span AS RANGE (subtype = float8);

CREATE TABLE "Kunden" (
  "Id" uuid PRIMARY KEY, mail citext UNIQUE NOT NULL, attributes hstore, "Straße" varchar(40), code char(5) NOT NULL DEFAULT 'x',
  born date, seen timestamptz, waits interval, address inet, "a ""quoted"" column" text, "select" bool
);
CREATE TABLE orders (
  country char(2), number bigint GENERATED ALWAYS AS IDENTITY, customer uuid REFERENCES "Kunden", state state NOT NULL,
  total money_of, lines item[], amount quantity NOT NULL, gross numeric(14, 3) GENERATED ALWAYS AS (amount * 1.19) STORED,
  valid tstzrange, numbers int4multirange, wave span, body jsonb, raw json, note text,
  PRIMARY KEY (number, country), EXCLUDE USING gist (valid WITH &&)
);
CREATE TABLE
  "A table whose name has sixty-three bytes, which is all there is" ("a column whose name has sixty-three bytes, and not one byte more" int PRIMARY KEY, v tags);
CREATE TABLE tree (path ltree PRIMARY KEY, parent ltree, words tsvector, position point, mask bit(8), flags varbit(9));

CREATE TABLE key_text (k text PRIMARY KEY, v int);
CREATE TABLE key_citext (k citext PRIMARY KEY, v int);
CREATE TABLE key_bytea (k bytea PRIMARY KEY, v int);
CREATE TABLE key_numeric (k numeric PRIMARY KEY, v float4);
CREATE TABLE key_float (k float8 PRIMARY KEY, v numeric);
CREATE TABLE key_enum (k state PRIMARY KEY, v money);
CREATE TABLE key_date (k date PRIMARY KEY, v time);
CREATE TABLE key_timestamptz (k timestamptz PRIMARY KEY, v timetz);
CREATE TABLE key_interval (k interval PRIMARY KEY, v interval);
CREATE TABLE key_inet (k inet PRIMARY KEY, v cidr);
CREATE TABLE key_macaddr (k macaddr PRIMARY KEY, v macaddr8);
CREATE TABLE key_jsonb (k jsonb PRIMARY KEY, v jsonb);
CREATE TABLE key_range (k daterange PRIMARY KEY, v int8range);
CREATE TABLE key_composite (k money_of PRIMARY KEY, v item);
CREATE TABLE key_array (k int[] PRIMARY KEY, v interval[]);
CREATE TABLE key_domain (k quantity PRIMARY KEY, v tags);
CREATE TABLE key_oid (k oid PRIMARY KEY, v regclass);
CREATE TABLE key_deferrable (k int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v smallint);
CREATE TABLE key_replica (k int NOT NULL, v text);
CREATE UNIQUE INDEX key_replica_k ON key_replica (k);
ALTER TABLE key_replica REPLICA IDENTITY USING INDEX key_replica_k;
CREATE TABLE no_key (a int, b text);
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, v text);

CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := coalesce(NEW.note, '') || '!'; RETURN NEW; END $$;
CREATE TRIGGER stamps BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE VIEW paid AS SELECT * FROM orders WHERE state = 'paid';
CREATE MATERIALIZED VIEW totals AS SELECT country, count(*) FROM orders GROUP BY country;
CREATE RULE no_notes AS ON DELETE TO unlogged WHERE OLD.id < 0 DO INSTEAD NOTHING;
COMMENT ON TABLE orders IS 'somebody''s comment';
