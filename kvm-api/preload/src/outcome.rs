//! Where a request goes.

/// Where a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// To its call.
    HandedOver,
    /// To the ioctl, as the others: the kernel lacks the calls.
    NoCalls,
    /// The file is not one on which the call does what the ioctl does.
    OtherFile,
    /// The request has an argument that the call lacks.
    Argument,
    /// The call would give a vCPU another id, or it is not known which.
    VcpuId,
    /// The structure of the request cannot be read.
    Structure,
    /// The kernel refused the call.
    Refused,
    /// The request has no call.
    NoCall,
}

impl Outcome {
    /// Those of a request that has a call, in the order of their numbers.
    pub(crate) const OF_ROUTES: [Self; 7] = [
        Self::HandedOver,
        Self::NoCalls,
        Self::OtherFile,
        Self::Argument,
        Self::VcpuId,
        Self::Structure,
        Self::Refused,
    ];

    /// Why the request stayed an ioctl.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::HandedOver => "",
            Self::NoCalls => "the kernel lacks the calls",
            Self::OtherFile => "the file is of another kind",
            Self::Argument => "the call lacks an argument that is set",
            Self::VcpuId => "the call would give another id, or the id is not known",
            Self::Structure => "the structure cannot be read",
            Self::Refused => "the call was refused",
            Self::NoCall => "no call replaces it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_numbers() {
        for (place, outcome) in Outcome::OF_ROUTES.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
    }
}
