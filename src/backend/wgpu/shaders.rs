//! The shader files, compiled in.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Every shader file.
        #[cfg(test)]
        pub(crate) const FILES: &[&str] = &[$($name),*];

        /// Text of a file in `shaders/`.
        pub(crate) fn source(name: &str) -> Option<&'static str> {
            match name {
                $($name => Some(include_str!(concat!("../../../shaders/", $name))),)*
                _ => None,
            }
        }
    };
}

files! {
    "lib/num.wgsl",
    "poke.wgsl",
}
