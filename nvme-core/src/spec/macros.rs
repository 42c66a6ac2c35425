//! The two shapes that repeat in every wire module: a layout check and an open code.

/// Fails the build unless a type has the size, and its fields the offsets, that the specification gives.
macro_rules! layout {
    ($t:ty, $size:literal $(, $field:ident @ $off:literal)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$t>() == $size);
            $(assert!(core::mem::offset_of!($t, $field) == $off);)*
        };
    };
}

/// A code from the wire: a newtype with named constants which keeps values it has no name for.
macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($repr:ty) {
            $($var:ident = $val:literal, $text:literal;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            $(
                #[doc = concat!($text, " (`", stringify!($val), "`).")]
                pub const $var: Self = Self($val);
            )*

            /// The name that the specification gives the code, if it is known here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($val => Some($text),)*
                    _ => None,
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{name} ({:02X}h)", self.0),
                    None => write!(f, "unknown ({:02X}h)", self.0),
                }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:#04x}"), self.0)?;
                if let Some(name) = self.name() {
                    write!(f, ", {name}")?;
                }
                f.write_str(")")
            }
        }

        impl From<$repr> for $name {
            fn from(raw: $repr) -> Self {
                Self(raw)
            }
        }
    };
}

/// Bit fields of an integer register: for each a getter and a `with_` setter, by lowest bit and width.
///
/// A setter keeps the low `width` bits of what it is given.
macro_rules! bit_fields {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($repr:ty) {
            $($(#[$fmeta:meta])* $get:ident / $with:ident: $low:literal, $width:literal;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            $(
                $(#[$fmeta])*
                #[must_use]
                pub const fn $get(self) -> $repr {
                    self.0 >> $low & ((1 << $width) - 1)
                }

                #[doc = concat!("The same value with another `", stringify!($get), "`.")]
                #[must_use]
                pub const fn $with(self, value: $repr) -> Self {
                    let mask: $repr = (1 << $width) - 1;
                    Self(self.0 & !(mask << $low) | (value & mask) << $low)
                }
            )*
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("raw", &format_args!("{:#x}", self.0))
                    $(.field(stringify!($get), &self.$get()))*
                    .finish()
            }
        }
    };
}
