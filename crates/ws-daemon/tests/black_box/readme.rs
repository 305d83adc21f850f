//! What the README shows is run.
