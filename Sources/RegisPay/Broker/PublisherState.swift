import LogStore
import Synchronization

/// What the thread that speaks to the broker and the task that reads the log share.
///
/// Safe to use from any thread.
final class PublisherState: Sendable {
  private struct State {
    var queue: PublishQueue
    var status = BrokerStatus()
    /// Whose events are in the queue; nil before the log is read.
    var subscription: Subscription?
    var isRoomWanted = false
    var skipped: [PaymentEvent.TypeName: (count: UInt64, offsets: ClosedRange<UInt64>)] = [:]
    /// The log is read from where new queues of steps need it.
    var areNewQueuesAllowed = false
    var releases: [PaymentStep] = []
    var isStopping = false
  }

  let options: BrokerOptions
  let topology: BrokerTopology
  let metrics = BrokerMetrics()
  private let state: Mutex<State>

  init(_ options: BrokerOptions, name: String = BrokerPublisher.cursorName) {
    self.options = options
    topology = BrokerTopology(prefix: options.exchangePrefix)
    var state = State(queue: PublishQueue(backoff: options.backoff))
    state.status.name = name
    if options.hasStepQueues {
      state.status.queues = StepQueue.all.map { .init(queue: $0, messages: 0, workers: 0, deadLetters: 0) }
    }
    self.state = Mutex(state)
  }

  // MARK: - The task that reads the log

  /// Takes events of this subscription, after those that were added before.
  func add(_ events: [IntegrationEvent]) { state.withLock { state in for event in events { state.queue.add(event) } } }

  /// Forgets all events: those of another subscription follow.
  func begin(_ subscription: Subscription) {
    state.withLock { state in
      state.queue.removeAll()
      state.subscription = subscription
      state.skipped = [:]
    }
  }

  /// How many events may be added. If it is 0, the thread calls `onRoom` when there is room again.
  var room: Int {
    state.withLock { state in
      let room = max(0, options.eventLimit - state.queue.count)
      state.isRoomWanted = room == 0
      return room
    }
  }

  /// All that is not done follows: the thread may declare queues that are not there.
  func allowNewQueues() { state.withLock { $0.areNewQueuesAllowed = true } }

  func release(_ step: PaymentStep) {
    state.withLock { state in if !state.releases.contains(step) { state.releases.append(step) } }
  }

  // MARK: - The thread

  var areNewQueuesAllowed: Bool { state.withLock { $0.areNewQueuesAllowed } }

  /// The queues are declared: what is published from now on reaches them.
  func haveQueues() { state.withLock { $0.areNewQueuesAllowed = false } }

  /// The next step whose dead letters are to go to its queue.
  func takeRelease() -> PaymentStep? { state.withLock { $0.releases.isEmpty ? nil : $0.releases.removeFirst() } }

  func set(_ queues: [StepQueue.Status]) { state.withLock { $0.status.queues = queues } }

  /// Works with the queue. Confirmed events are finished before the lock is released, so that none is finished for a subscription
  /// that began meanwhile.
  ///
  /// - Returns: what `body` returns, and whether the task that reads the log waits for room that there is now.
  func withQueue<Value>(
    _ body: (inout PublishQueue, _ finish: (UInt64) -> Void) -> Value
  ) -> (value: Value, hasRoom: Bool) {
    state.withLock { state in
      let subscription = state.subscription
      let value = body(&state.queue) { subscription?.finish($0) }
      // Half of it, so that the log is read in portions.
      let hasRoom = state.isRoomWanted && state.queue.count <= options.eventLimit / 2
      if hasRoom { state.isRoomWanted = false }
      return (value, hasRoom)
    }
  }

  /// - Returns: whether that is a change.
  func set(_ newState: BrokerStatus.State, reason: String?, address: String?) -> Bool {
    state.withLock { state in
      let isChange = state.status.state != newState || state.status.reason != reason
      (state.status.state, state.status.reason, state.status.address) = (newState, reason, address)
      return isChange
    }
  }

  /// Notes a message that no queue got and that counts as published.
  ///
  /// - Returns: whether it is the first of its type since the log was last read from another offset.
  func skip(_ event: IntegrationEvent) -> Bool {
    state.withLock { state in
      guard let known = state.skipped[event.type] else {
        state.skipped[event.type] = (1, event.offset...event.offset)
        return true
      }
      let (low, high) = (known.offsets.lowerBound, known.offsets.upperBound)
      state.skipped[event.type] = (known.count + 1, min(low, event.offset)...max(high, event.offset))
      return false
    }
  }

  var isStopping: Bool { state.withLock { $0.isStopping } }

  func stop() { state.withLock { $0.isStopping = true } }

  // MARK: - Those who watch

  var status: BrokerStatus {
    state.withLock { state in
      var status = state.status
      status.held = state.queue.holds.sorted { $0.key.rawValue < $1.key.rawValue }.map { type, hold in
        .init(name: topology.exchange(of: type), reason: hold.reason, nextTry: hold.until)
      }
      status.skipped = state.skipped.sorted { $0.key.rawValue < $1.key.rawValue }.map { type, skipped in
        .init(name: topology.exchange(of: type), count: skipped.count, offsets: skipped.offsets)
      }
      status.inFlight = state.queue.inFlightCount
      status.unfinished = state.queue.count
      if status.state == .publishing, status.unfinished >= options.eventLimit, state.queue.isAllHeld {
        status.state = .held
      }
      status.checkpoint = state.subscription?.checkpoint ?? 0
      status.nextOffset = state.subscription?.nextCheckpoint ?? 0
      return status
    }
  }
}
