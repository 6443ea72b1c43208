//! Rules and results of the project as a whole. The tests are in `tests/`; this library is empty.
