//! The maximum size of a batch, in rows and in what the rows cost.

/// The maximum size of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BatchLimit {
    /// Rows.
    pub(crate) rows: u32,
    /// What the rows cost, in [units](batchfleet_policy::LengthCost). A row of a model whose rows
    /// have one length costs one unit.
    pub(crate) units: f64,
}

impl BatchLimit {
    /// The most rows that cost `row_units` each; at least 1.
    pub(crate) fn rows_of(self, row_units: f64) -> u32 {
        self.rows.min(whole_rows(self.units / row_units)).max(1)
    }

    /// Whether a row that costs `row_units` fits.
    pub(crate) fn holds(self, row_units: f64) -> bool {
        self.rows > 0 && self.units + ROUNDING >= row_units
    }

    /// What is left beside `rows` that cost `units` together.
    pub(crate) fn beside(self, rows: u32, units: f64) -> Self {
        Self { rows: self.rows.saturating_sub(rows), units: self.units - units }
    }
}

/// The number of whole rows in `rows`, which may be off by the error of a few floating-point
/// operations.
fn whole_rows(rows: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = (rows + ROUNDING).floor() as u32;
    whole
}

/// `units`, rounded up to whole units.
pub(crate) fn whole_units(units: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let whole = (units - ROUNDING).ceil() as u32;
    whole
}

/// More than the error of the operations that compute units.
const ROUNDING: f64 = 1e-6;
