import LogStore

extension StepConsumer {
  /// What the consumer handles, one after the other.
  enum Message: Sendable {
    /// The log has grown past the offset that was read.
    case readable
    /// A timer has fired.
    case due(ContinuousClock.Instant)
    case tick
    /// A try ended.
    ///
    /// - Parameter slot: of its call; nil when there was no call.
    case ended(StepWork, StepEnding, slot: Int?)
    /// The work whose wait on the log is over.
    case delayed(DueWork)
    /// Damaged ranges that were passed over are on the log, or could not be appended.
    case passed([DamagedRange], isRecorded: Bool)
    /// What of the tracked work is done, by its offsets, and what is not.
    case checked(done: [UInt64], open: [WorkTracker.Item])
    case stop
    case stopNow
  }
}
