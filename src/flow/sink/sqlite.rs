//! A table of an SQLite database.
//!
//! It is a sink like one of a program's own. The rows of a batch are one transaction with its number,
//! so what an earlier buffer has written is known by looking it up.
//!
//! A new database gets a write-ahead log, so that who reads it never makes the buffer wait; of one
//! that is there already the mode is somebody else's choice.

use super::Sink as Bytes;
use super::own::{Opened, Opening, OwnSink, Records, Sink, SinkError, Transport};
use crate::config::SyncPolicy;
use crate::flow::format::COLUMNS_MAX;
use crate::flow::queue::spool::directory_of;
use crate::sys::trusted;
use rusqlite::types::Value as Cell;
use rusqlite::{Connection, ErrorCode, TransactionBehavior, params, params_from_iter};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long somebody else's transaction is waited for, each time.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// Where the fields go for which there is no room for another column.
const REST: &str = "_rest";

type Row = Map<String, Value>;

/// The sink for the buffer. The database is opened by it, and not here: a connection can't be forked.
pub(super) fn open(path: &Path, table: &str, sync: SyncPolicy) -> Box<dyn Bytes> {
    let sink = Sqlite {
        path: path.to_path_buf(),
        table: table.to_owned(),
        full: sync == SyncPolicy::Always,
        spool: 0,
        connection: None,
        columns: BTreeSet::new(),
    };
    let name = path.display().to_string();
    Box::new(OwnSink::<Row, Sqlite>::new(sink, &name, Transport::Json))
}

struct Sqlite {
    path: PathBuf,
    table: String,
    /// Each transaction is forced to the disk.
    full: bool,
    spool: i64,
    connection: Option<Connection>,
    /// Of the table, in lower case, since case makes no difference; none: there is no table.
    columns: BTreeSet<String>,
}

impl Sink<Row> for Sqlite {
    fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError> {
        self.spool = opening.spool.cast_signed();
        trusted::check(&self.path)?;
        let number = self.connect().map_err(classified)?;
        let written = opening.unfinished.is_some_and(|unfinished| unfinished <= number);
        Ok(if written { Opened::Written(number) } else { Opened::At(number) })
    }

    fn write(&mut self, batch: &Records<Row>) -> Result<u64, SinkError> {
        let Sqlite { table, spool, columns, connection, .. } = self;
        let connection = connection.as_mut().ok_or_else(|| SinkError::new("not open"))?;
        write(connection, table, columns, (*spool, batch)).map_err(classified)?;
        Ok(batch.number())
    }

    fn sync(&mut self) -> Result<(), SinkError> {
        match &self.connection {
            // What was committed is on the disk already.
            Some(connection) if !self.full => {
                // Of a database without a write-ahead log that is nothing.
                let blocked = connection
                    .query_row("PRAGMA wal_checkpoint(FULL)", [], |row| row.get::<_, bool>(0))
                    .map_err(classified)?;
                // Somebody reads what was there before: the log itself has to do.
                if blocked { sync_log(connection) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

impl Sqlite {
    /// Opens the database, and says up to which batch of our spool it has got.
    fn connect(&mut self) -> Result<u64, rusqlite::Error> {
        self.connection = None;
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY_MAX)?;
        if connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))? == 0 {
            connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        }
        connection.pragma_update(
            None,
            "synchronous",
            if self.full { "EXTRA" } else { "NORMAL" },
        )?;
        connection.execute(
            "CREATE TABLE IF NOT EXISTS procsig_batches \
             (spool INTEGER PRIMARY KEY, batch INTEGER NOT NULL)",
            [],
        )?;
        let number = connection
            .query_row("SELECT batch FROM procsig_batches WHERE spool = ?1", [self.spool], |row| {
                row.get::<_, i64>(0)
            })
            .or_else(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => Ok(0),
                other => Err(other),
            })?;
        self.columns = connection
            .prepare("SELECT lower(name) FROM pragma_table_info(?1)")?
            .query_map([&self.table], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        self.connection = Some(connection);
        Ok(number.cast_unsigned())
    }
}

/// Forces the write-ahead log to the disk, and its name.
fn sync_log(connection: &Connection) -> Result<(), SinkError> {
    let database = connection.path().unwrap_or_default();
    File::open(format!("{database}-wal"))?.sync_data()?;
    File::open(directory_of(Path::new(database)))?.sync_all()?;
    Ok(())
}

/// Writes the rows and the number of the batch, or nothing.
fn write(
    connection: &mut Connection,
    table: &str,
    columns: &mut BTreeSet<String>,
    (spool, batch): (i64, &Records<Row>),
) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut known = columns.clone();
    for row in batch {
        let row = within_the_table(row, &known);
        for name in row.iter().map(|(name, _)| *name) {
            if known.contains(&name.to_ascii_lowercase()) {
                continue;
            }
            let (table, column) = (quoted(table), quoted(name));
            let sql = if known.is_empty() {
                format!("CREATE TABLE {table} ({column})")
            } else {
                format!("ALTER TABLE {table} ADD COLUMN {column}")
            };
            transaction.execute(&sql, [])?;
            known.insert(name.to_ascii_lowercase());
        }
        let names: Vec<String> = row.iter().map(|(name, _)| quoted(name)).collect();
        let places = vec!["?"; names.len()].join(", ");
        let sql = format!("INSERT INTO {} ({}) VALUES ({places})", quoted(table), names.join(", "));
        let cells = row.into_iter().map(|(_, cell)| cell);
        transaction.prepare_cached(&sql)?.execute(params_from_iter(cells))?;
    }
    transaction.execute(
        "INSERT INTO procsig_batches (spool, batch) VALUES (?1, ?2) \
         ON CONFLICT (spool) DO UPDATE SET batch = excluded.batch",
        params![spool, batch.number().cast_signed()],
    )?;
    transaction.commit()?;
    *columns = known;
    Ok(())
}

/// The cells of a row. Fields for which a table would get too many columns are put together in one.
fn within_the_table<'a>(row: &'a Row, known: &BTreeSet<String>) -> Vec<(&'a str, Cell)> {
    let mut room = COLUMNS_MAX.saturating_sub(known.len());
    let mut rest = Row::new();
    let mut cells = Vec::new();
    for (name, value) in row {
        let is_known = known.contains(&name.to_ascii_lowercase());
        if !is_known && room == 0 {
            rest.insert(name.clone(), value.clone());
            continue;
        }
        room -= usize::from(!is_known);
        cells.push((name.as_str(), cell(value)));
    }
    if !rest.is_empty() {
        cells.retain(|(name, _)| !name.eq_ignore_ascii_case(REST));
        cells.push((REST, Cell::Text(Value::Object(rest).to_string())));
    }
    cells
}

fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Bool(truth) => Cell::Integer((*truth).into()),
        Value::String(text) => Cell::Text(text.clone()),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), ..) => Cell::Integer(whole),
            (None, Some(large), _) => Cell::Text(large.to_string()),
            (None, None, Some(real)) => Cell::Real(real),
            (None, None, None) => Cell::Text(number.to_string()),
        },
        Value::Array(_) | Value::Object(_) => Cell::Text(value.to_string()),
    }
}

/// A name as SQL has it, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What passes, and what does not. What of a transaction whose end has failed is there, opening the
/// database again will say.
fn classified(error: rusqlite::Error) -> SinkError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull) => {
            SinkError::retry(error)
        }
        _ => SinkError::from(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn opening(spool: u64, unfinished: Option<u64>) -> Opening {
        Opening { spool, position: None, unfinished }
    }

    fn sink(path: &Path) -> Sqlite {
        Sqlite {
            path: path.to_path_buf(),
            table: "my \"table\"".into(),
            full: true,
            spool: 0,
            connection: None,
            columns: BTreeSet::new(),
        }
    }

    fn batch(number: u64, rows: &[Value]) -> Records<Row> {
        let rows = rows.iter().map(|row| row.as_object().expect("an object").clone());
        Records::new(number, rows.collect())
    }

    fn texts(path: &Path, sql: &str) -> Vec<String> {
        let connection = Connection::open(path).expect("open");
        let mut statement = connection.prepare(sql).expect("a query");
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("rows")
    }

    #[test]
    fn columns_come_with_the_fields_and_values_keep_their_type() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("db");
        let mut sink = sink(&path);
        assert_eq!(sink.open(&opening(7, None)).expect("open"), Opened::At(0));
        let rows = [
            json!({"Host": "a", "ms": 1.5}),
            json!({"host": "b", "ms": 3, "up": true, "big": u64::MAX, "a \"b\"": [1], "no": null}),
        ];
        assert_eq!(sink.write(&batch(1, &rows)).expect("written"), 1);
        let sql = "SELECT Host || typeof(ms) || ifnull(up, '-') || ifnull(big, '-') || \
                   ifnull(\"a \"\"b\"\"\", '-') FROM \"my \"\"table\"\"\"";
        let all = texts(&path, sql);
        assert_eq!(all, ["areal---", "binteger118446744073709551615[1]"]);
    }

    #[test]
    fn whether_a_batch_is_there_is_known_by_its_spool_and_number() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("db");
        let mut first = sink(&path);
        first.open(&opening(u64::MAX, None)).expect("open");
        first.write(&batch(5, &[json!({"a": 1})])).expect("written");
        for (spool, unfinished, answer) in [
            (u64::MAX, Some(5), Opened::Written(5)),
            (u64::MAX, Some(6), Opened::At(5)),
            (u64::MAX, None, Opened::At(5)),
            (8, Some(5), Opened::At(0)),
        ] {
            let opened = sink(&path).open(&opening(spool, unfinished)).expect("open");
            assert_eq!(opened, answer, "{spool} {unfinished:?}");
        }
    }

    #[test]
    fn a_batch_of_which_a_row_fails_is_not_there_at_all() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("db");
        let table = "CREATE TABLE \"my \"\"table\"\"\" (a TEXT UNIQUE)";
        Connection::open(&path).expect("open").execute(table, []).expect("a table");
        let mut sink = sink(&path);
        sink.open(&opening(7, None)).expect("open");
        let rows = [json!({"a": "x", "b": 1}), json!({"a": "x"})];
        assert!(sink.write(&batch(1, &rows)).is_err());
        assert_eq!(sink.open(&opening(7, Some(1))).expect("open"), Opened::At(0));
        sink.write(&batch(1, &rows[..1])).expect("written");
        assert_eq!(texts(&path, "SELECT a || b FROM \"my \"\"table\"\"\""), ["x1"]);
    }

    #[test]
    fn fields_without_end_share_a_column() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("db");
        let mut sink = sink(&path);
        sink.open(&opening(7, None)).expect("open");
        for number in 0..=COLUMNS_MAX as u64 + 1 {
            let row = json!({format!("field {number}"): number});
            sink.write(&batch(number + 1, &[row])).expect("written");
        }
        let rest = texts(&path, "SELECT _rest FROM \"my \"\"table\"\"\" WHERE _rest IS NOT NULL");
        assert_eq!(rest, ["{\"field 500\":500}", "{\"field 501\":501}"]);
    }

    /// With FULL, the journal of the last transaction could be found again after a power loss, and would
    /// undo it.
    #[test]
    fn in_a_database_without_a_write_ahead_log_a_transaction_is_on_the_disk_as_well() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("db");
        let other = Connection::open(&path).expect("open");
        other.execute("CREATE TABLE other (a)", []).expect("a table");
        let mut sink = sink(&path);
        sink.open(&opening(7, None)).expect("open");
        let of = |pragma: &str| {
            let connection = sink.connection.as_ref().expect("open");
            let sql = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
            connection.query_row(&sql, [], |row| row.get::<_, String>(0)).expect("a pragma")
        };
        assert_eq!((of("journal_mode"), of("synchronous")), ("delete".into(), "3".into()));
    }

    #[test]
    fn one_who_reads_for_long_does_not_keep_a_sync_from_what_was_written() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("db");
        let mut sink = Sqlite { full: false, ..sink(&path) };
        sink.open(&opening(7, None)).expect("open");
        let reader = Connection::open(&path).expect("open");
        reader.execute_batch("BEGIN; SELECT * FROM procsig_batches").expect("reads");
        sink.write(&batch(1, &[json!({"a": 1})])).expect("written");
        let connection = sink.connection.as_ref().expect("open");
        connection.busy_timeout(Duration::ZERO).expect("no patience");
        let checkpoint = || {
            let sql = "PRAGMA wal_checkpoint(FULL)";
            connection.query_row(sql, [], |row| row.get::<_, bool>(0)).expect("a checkpoint")
        };
        assert!(checkpoint(), "the reader is in its way");
        sync_log(connection).expect("synced");
        drop(reader);
        assert!(!checkpoint());
    }

    #[test]
    fn a_database_that_is_busy_is_tried_again_and_what_is_none_is_not() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("db");
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        let error = classified(rusqlite::Error::SqliteFailure(busy, None));
        assert!(error.passes());
        std::fs::write(&path, "this is no database, and long enough to be seen as none")
            .expect("write");
        let error = sink(&path).open(&opening(7, None)).expect_err("no database");
        assert!(!error.passes(), "{error}");
    }
}
