//! The trigger function of the specification, which the tests and the benchmark compare with
//! pgic's.

/// The statement that creates `notify_cache_change()`, copied from the specification letter by
/// letter.
pub const FUNCTION: &str = "
CREATE OR REPLACE FUNCTION notify_cache_change()
RETURNS TRIGGER AS $$
DECLARE
    notification json;
    payload text;
BEGIN
    IF (TG_OP = 'DELETE') THEN
        notification = json_build_object(
            'table', TG_TABLE_NAME,
            'action', 'delete',
            'id', OLD.id
        );
    ELSE
        notification = json_build_object(
            'table', TG_TABLE_NAME,
            'action', lower(TG_OP),
            'id', NEW.id,
            'data', row_to_json(NEW)
        );
    END IF;

    payload = notification::text;
    PERFORM pg_notify('cache_invalidation', payload);

    IF (TG_OP = 'DELETE') THEN
        RETURN OLD;
    ELSE
        RETURN NEW;
    END IF;
END;
$$ LANGUAGE plpgsql;";
