//! One binary; a module per theme.

/// Begins a test with a real agent: ends it at once if something is lacking, with the line that CI counts.
macro_rules! needs {
    ($lacking:expr) => {
        if let Some(what) = $lacking {
            println!("skipped: needs {what}");
            return;
        }
        // One agent per machine: these tests run one at a time. Held until the test's end.
        let _alone = tandem_tests::alone();
    };
}
use needs;

mod end_to_end;
mod eval;
mod networks;
mod profile;
mod sim;
mod vm;
