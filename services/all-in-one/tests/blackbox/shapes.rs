//! A scenario becomes a test for each shape of the system.

/// Makes a test for each of these shapes of the system out of scenarios that take a plan.
macro_rules! in_shapes {
    ([$($shape:ident),*], $scenarios:tt) => { $(in_shapes!($shape, $scenarios);)* };
    ($shape:ident, ($($scenario:ident),* $(,)?)) => {
        mod $shape {
            use pulse_testkit::system::System;
            $(#[tokio::test] async fn $scenario() { super::$scenario(System::$shape()).await; })*
        }
    };
}

/// For what is the same wherever the data is kept.
macro_rules! in_every_shape {
    ($($scenarios:tt)*) => { in_shapes!([all_in_one, five_processes, replicated], ($($scenarios)*)); };
}

/// For what is about the files of the embedded stores.
macro_rules! in_embedded_shapes {
    ($($scenarios:tt)*) => { in_shapes!([all_in_one, five_processes], ($($scenarios)*)); };
}
