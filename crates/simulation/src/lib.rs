//! stub
mod chance;
mod entropy;
