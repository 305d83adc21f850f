//! What the program is packed in: the files agree with the code.
