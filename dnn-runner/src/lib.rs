//! The unprivileged process that runs a dynamic DNN.
