/// The queues of steps: declared, looked at, and their dead letters released.
extension PublisherThread {
  /// Dead letters that are on their way at once.
  private static let releasePrefetch = 32
  /// Without a dead letter for this long, there is none any more.
  private static let releaseLimit = Duration.seconds(5)
  /// For the log to be read from where new queues need it.
  private static let restartLimit = Duration.seconds(10)

  /// Declares what is not there, once the log is read from where new queues need it: what was published before has not reached them.
  func declareQueues(_ session: inout Session) throws(BrokerConnection.Failure) {
    var isNew = false
    for queue in StepQueue.all where try session.connection.counts(of: queue.name) == nil { isNew = true }
    if isNew, !shared.areNewQueuesAllowed {
      onNewQueues()
      let end = ContinuousClock.now + Self.restartLimit
      while !shared.areNewQueuesAllowed {
        guard !shared.isStopping, ContinuousClock.now < end else {
          throw BrokerConnection.Failure(reason: "the log has not taken the checkpoint for new queues")
        }
        wakeup.wait(until: ContinuousClock.now + .milliseconds(50))
      }
    }
    for queue in StepQueue.all {
      try must(
        queue.deadLetters,
        try session.connection.declareQueue(queue.deadLetters, deadLetters: queue.name, deliveryLimit: nil))
      try must(
        queue.name,
        try session.connection.declareQueue(
          queue.name, deadLetters: queue.deadLetters, deliveryLimit: StepQueue.deliveryLimit))
      for exchange in queue.exchanges {
        try must(queue.name, try session.connection.bind(queue: queue.name, to: exchange))
      }
    }
    shared.haveQueues()
  }

  /// Without its queues no step goes on, so a refusal ends the connection.
  private func must(_ name: String, _ refusal: BrokerConnection.Failure?) throws(BrokerConnection.Failure) {
    if let refusal { throw BrokerConnection.Failure(reason: Self.reason(ofQueue: name, refusal)) }
  }

  func careForQueues(_ session: inout Session, _ now: ContinuousClock.Instant) throws(BrokerConnection.Failure) {
    if let release = session.release {
      if release.left <= 0 || release.end < now {
        try session.connection.stopConsuming()
        session.release = nil
        session.nextLook = now
      }
    } else if let step = shared.takeRelease() {
      let queue = StepQueue(step: step)
      let count = try session.connection.counts(of: queue.deadLetters)?.messages ?? 0
      if count > 0 {
        let refusal = try session.connection.consume(
          queue.deadLetters, as: step.rawValue, prefetch: min(count, Self.releasePrefetch))
        if let refusal { throw refusal }
        session.release = (step, count, now + Self.releaseLimit)
      }
    }
    // Such a call must not wait behind the dead letters.
    guard session.nextLook <= now, session.release == nil else { return }
    session.nextLook = now + shared.options.queueInterval
    var found: [StepQueue.Status] = []
    for queue in StepQueue.all {
      guard let counts = try session.connection.counts(of: queue.name),
        let dead = try session.connection.counts(of: queue.deadLetters)
      else { throw BrokerConnection.Failure(reason: "the queue \(queue.name) or its dead letters were deleted") }
      found.append(
        .init(queue: queue, messages: counts.messages, workers: counts.consumers, deadLetters: dead.messages))
    }
    shared.set(found)
  }

  /// A dead letter that is rejected is a dead letter of the dead letters: the broker moves it to the step's queue itself.
  func release(_ delivery: BrokerConnection.Delivery, _ session: inout Session) throws(BrokerConnection.Failure) {
    guard let release = session.release, release.left > 0 else { return }
    try session.connection.settle(delivery.tag, .reject)
    session.release = (release.step, release.left - 1, ContinuousClock.now + Self.releaseLimit)
  }
}
