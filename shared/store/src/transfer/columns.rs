//! How a column of PostgreSQL takes a value, and gives it back.

use futures::{StreamExt as _, stream::BoxStream};
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{Row, Table, TransferError};

/// What kind of value a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Real,
    Instant,
    Bytes,
    Json,
}

impl Kind {
    fn of(type_name: &str) -> Result<Self, sqlx::Error> {
        Ok(match type_name {
            "text" => Self::Text,
            "bigint" | "integer" | "smallint" => Self::Whole,
            "double precision" => Self::Real,
            "timestamp with time zone" => Self::Instant,
            "bytea" => Self::Bytes,
            "jsonb" => Self::Json,
            other => return Err(sqlx::Error::TypeNotFound { type_name: other.to_owned() }),
        })
    }

    /// The expression that takes the value out of the row `r`.
    fn taken(self, column: &str) -> String {
        let text = format!("(r ->> '{column}')");
        match self {
            Self::Text => text,
            Self::Whole => format!("{text}::bigint"),
            Self::Real => format!("{text}::double precision"),
            Self::Instant => format!("timestamptz 'epoch' + {text}::bigint * interval '1 microsecond'"),
            Self::Bytes => format!("decode({text}, 'hex')"),
            Self::Json => format!("r -> '{column}'"),
        }
    }

    /// The expression that gives the value back as JSON.
    fn given(self, column: &str) -> String {
        match self {
            Self::Text | Self::Whole | Self::Json => column.to_owned(),
            // As text, which keeps every digit and tells 1.0 from 1 no more than PostgreSQL does.
            Self::Real => format!("{column}::text"),
            Self::Instant => format!("(extract(epoch FROM {column}) * 1000000)::bigint"),
            Self::Bytes => format!("encode({column}, 'hex')"),
        }
    }
}

/// The columns of a table, as the database says.
#[derive(Debug)]
pub(super) struct Columns {
    table: Table,
    columns: Vec<(String, Kind)>,
}

impl Columns {
    pub(super) async fn of(conn: &mut PgConnection, table: &Table) -> Result<Self, sqlx::Error> {
        // What the database computes is not copied.
        let columns: Vec<(String, String)> = sqlx::query_as(
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
             ORDER BY attnum",
        )
        .bind(table.name)
        .fetch_all(conn)
        .await?;
        let kinds = columns.into_iter().map(|(name, kind)| Ok((name, Kind::of(&kind)?)));
        Ok(Self { table: *table, columns: kinds.collect::<Result<_, sqlx::Error>>()? })
    }

    /// Inserts the rows of a JSON array.
    pub(super) fn insert(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let values: Vec<_> = self.columns.iter().map(|(name, kind)| kind.taken(name)).collect();
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM jsonb_array_elements($1) AS r",
            self.table.name,
            names.join(", "),
            values.join(", ")
        )
    }

    /// Whether the table has a place for everything in the rows.
    pub(super) fn check(&self, rows: &[Row]) -> Result<(), TransferError> {
        let known = |name: &String| self.columns.iter().any(|(column, _)| column == name);
        match rows.iter().flat_map(Map::keys).find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => {
                Err(TransferError::Origin(format!("{}.{name} has no place in PostgreSQL", self.table.name)))
            }
        }
    }

    /// Every row, in the order of the key.
    pub(super) fn rows<'c>(&self, conn: &'c mut PgConnection) -> BoxStream<'c, Result<Row, sqlx::Error>> {
        let values: Vec<_> =
            self.columns.iter().map(|(name, kind)| format!("'{name}', {}", kind.given(name))).collect();
        let key = self.table.key.iter().map(|name| {
            let is_text = self.columns.iter().any(|(column, kind)| column == name && *kind == Kind::Text);
            if is_text { format!("{name} COLLATE \"C\"") } else { (*name).to_owned() }
        });
        let sql = format!(
            "SELECT jsonb_build_object({}) FROM {} ORDER BY {}",
            values.join(", "),
            self.table.name,
            key.collect::<Vec<_>>().join(", ")
        );
        let reals: Vec<String> = self.reals().map(str::to_owned).collect();
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch(conn)
            .map(move |row: Result<Value, sqlx::Error>| {
                let Value::Object(mut row) = row? else { return Err(sqlx::Error::RowNotFound) };
                for name in &reals {
                    if let Some(value) = row.get_mut(name) {
                        let number = value.as_str().and_then(|text| text.parse::<f64>().ok());
                        *value = number.map_or(Value::Null, Value::from);
                    }
                }
                Ok(row)
            })
            .boxed()
    }

    /// A row of the origin as the database would give it back: with every column, and real numbers as such.
    pub(super) fn normalized(&self, mut row: Row) -> Row {
        for (name, _) in &self.columns {
            row.entry(name.clone()).or_insert(Value::Null);
        }
        for name in self.reals() {
            if let Some(value) = row.get_mut(name) {
                *value = value.as_f64().map_or(Value::Null, Value::from);
            }
        }
        row
    }

    /// What tells a row from others, for people.
    pub(super) fn key(&self, row: &Row) -> String {
        let text = |name: &&str| match row.get(*name) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => String::new(),
        };
        self.table.key.iter().map(text).collect::<Vec<_>>().join(" / ")
    }

    fn reals(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|(_, kind)| *kind == Kind::Real).map(|(name, _)| name.as_str())
    }
}
