//! What every store must do: one suite, run against each of them.
