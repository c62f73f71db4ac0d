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
    /// To its call on the vCPU that is bound to the thread, without a descriptor.
    Bound,
    /// To its call, by the descriptor of the vCPU that is bound to the thread.
    BoundWithFd,
    /// Another thread had bound the vCPU.
    Busy,
    /// The request has no call.
    NoCall,
}

impl Outcome {
    /// Those of a request that has a call, in the order of their numbers.
    pub(crate) const OF_ROUTES: [Self; 10] = [
        Self::HandedOver,
        Self::NoCalls,
        Self::OtherFile,
        Self::Argument,
        Self::VcpuId,
        Self::Structure,
        Self::Refused,
        Self::Bound,
        Self::BoundWithFd,
        Self::Busy,
    ];

    /// Whether the request became a system call of KVM.
    #[must_use]
    pub fn is_call(self) -> bool {
        matches!(self, Self::HandedOver | Self::Bound | Self::BoundWithFd)
    }

    /// Why the request stayed an ioctl.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::HandedOver | Self::Bound | Self::BoundWithFd => "",
            Self::NoCalls => "the kernel lacks the calls",
            Self::OtherFile => "the file is of another kind",
            Self::Argument => "the call lacks an argument that is set",
            Self::VcpuId => "the call would give another id, or the id is not known",
            Self::Structure => "the structure cannot be read",
            Self::Refused => "the call was refused",
            Self::Busy => "the vCPU was busy, or bound to another thread",
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
