import Dispatch
import LogStore
import Synchronization

/// The response to a line of input.
enum LineResponse: Sendable {
  /// The line is an event of the append. The response is its offset, or the reason why the append failed.
  case event
  case refused(String)
}

/// One append and the lines it came from.
struct PendingAppend: Sendable {
  var events: [NewEvent]
  /// In the order of the lines; one `.event` for each of ``events``.
  var responses: [LineResponse]
  /// Approximate bytes of memory that the events take.
  var byteCount: Int
}

/// Keeps many appends in flight, responds in order, and bounds the memory.
///
/// Three threads work with the store. The input's thread submits appends, and blocks while enough is in flight. The lane
/// starts the appends in the order of submission. The output's thread writes the responses that are due, all with one
/// `write`, as soon as there is one. An append is in flight until its responses are written, so a reader that doesn't read
/// also holds back the input.
final class AppendPipeline: Sendable {
  // At least one append is always admitted, however large it is.
  private static let eventsInFlightMax = 256
  private static let appendsInFlightMax = 64
  private static let bytesInFlightMax = 32 << 20

  struct Outcome: Sendable {
    /// What stopped the store.
    var failure: LogStoreError?
    var inputFailure: CommandFailure?
    var outputFailure: OutputError?
    /// Lines that got `err`.
    var refusedLines = 0
  }

  private struct Slot {
    var pending: PendingAppend
    var result: Result<Range<UInt64>, LogStoreError>?
  }

  private struct State {
    /// In the order of submission; `slots[0]` has the number `firstNumber`.
    var slots: [Slot] = []
    var firstNumber = 0
    /// Responses that are due.
    var ready: [UInt8] = []
    /// The room in the window that writing the responses in `ready` frees.
    var readyWindow = Window()
    var window = Window()
    var isInputEnded = false
    var outcome = Outcome()
    var waiter: CheckedContinuation<Outcome, Never>?
    var isFinished = false

    var isStopped: Bool { outcome.failure != nil || outcome.outputFailure != nil }
  }

  private struct Window {
    var events = 0
    var appends = 0
    var bytes = 0

    static func += (left: inout Window, right: Window) {
      left.events += right.events
      left.appends += right.appends
      left.bytes += right.bytes
    }

    static func -= (left: inout Window, right: Window) {
      left.events -= right.events
      left.appends -= right.appends
      left.bytes -= right.bytes
    }

    /// One of the limits on events and appends has to have room: 256 single lines, or 64 batches.
    var hasRoom: Bool {
      appends == 0
        || (events < eventsInFlightMax || appends < appendsInFlightMax) && bytes < bytesInFlightMax
    }
  }

  private let store: LogStore
  private let lane = SerialLane()
  private let state = Mutex(State())
  /// Signalled whenever the window may have room again.
  private let roomChanged = DispatchSemaphore(value: 0)
  /// Signalled whenever there may be something to write, or the end.
  private let readyChanged = DispatchSemaphore(value: 0)

  /// Called when ``isStopped`` becomes true. Wakes the input's thread.
  private let onStop: @Sendable () -> Void

  init(store: LogStore, onStop: @escaping @Sendable () -> Void) {
    self.store = store
    self.onStop = onStop
  }

  /// The store has failed, or nobody reads the responses: more input is useless.
  var isStopped: Bool { state.withLock { $0.isStopped } }

  /// What stopped the store.
  var failure: LogStoreError? { state.withLock { $0.outcome.failure } }

  /// Accepts the next append. Blocks while enough is in flight. Only for the input's thread.
  func submit(_ pending: PendingAppend) {
    let cost = Window(events: pending.responses.count, appends: 1, bytes: pending.byteCount)
    while true {
      let number: Int? = state.withLock { state in
        // After a failure nothing has to be held back: the remaining responses are about to be written.
        guard state.window.hasRoom || state.outcome.failure != nil else { return nil }
        state.window += cost
        state.slots.append(Slot(pending: pending, result: pending.events.isEmpty ? .success(0..<0) : nil))
        return state.firstNumber + state.slots.count - 1
      }
      if let number {
        start(pending, number: number)
        return
      }
      roomChanged.wait()
    }
  }

  private func start(_ pending: PendingAppend, number: Int) {
    guard !pending.events.isEmpty else {
      state.withLock { Self.collect(&$0) }
      readyChanged.signal()
      return
    }
    // The lane is serial and first in, first out, so that appends reach the store in the order of the lines.
    Task(executorPreference: lane) {
      let result: Result<Range<UInt64>, LogStoreError>
      do throws(LogStoreError) {
        let events = pending.events
        result = .success(try await self.store.append(Append(events)).offsets)
      } catch {
        result = .failure(error)
      }
      self.complete(number, result)
    }
  }

  private func complete(_ number: Int, _ result: Result<Range<UInt64>, LogStoreError>) {
    let hasStopped = state.withLock { state in
      let wasStopped = state.isStopped
      if case .failure(let error) = result, !error.isRefusal {
        // `.stopped` only repeats an error that another append got first.
        switch state.outcome.failure {
        case nil, .stopped, .closed: state.outcome.failure = error
        default: break
        }
      }
      state.slots[number - state.firstNumber].result = result
      Self.collect(&state)
      return state.isStopped && !wasStopped
    }
    readyChanged.signal()
    roomChanged.signal()
    if hasStopped { onStop() }
  }

  /// Moves the responses of the oldest finished appends to `ready`.
  private static func collect(_ state: inout State) {
    var done = 0
    for slot in state.slots {
      guard let result = slot.result else { break }
      done += 1
      var next: UInt64 = 0
      var reason: String?
      switch result {
      case .success(let offsets): next = offsets.lowerBound
      case .failure(let error): reason = error.description
      }
      for response in slot.pending.responses {
        switch response {
        case .event:
          if let reason {
            state.ready.append(err: reason)
            state.outcome.refusedLines += 1
          } else {
            state.ready.append(ok: next)
            next += 1
          }
        case .refused(let reason):
          state.ready.append(err: reason)
          state.outcome.refusedLines += 1
        }
      }
      state.readyWindow += Window(
        events: slot.pending.responses.count, appends: 1, bytes: slot.pending.byteCount)
    }
    state.slots.removeFirst(done)
    state.firstNumber += done
  }

  /// No more appends will be submitted.
  func endInput(_ failure: CommandFailure?) {
    state.withLock {
      $0.isInputEnded = true
      $0.outcome.inputFailure = failure
    }
    readyChanged.signal()
  }

  /// Writes responses until the last one. Blocks; for a thread of its own.
  func runOutput() {
    while true {
      let (bytes, freed, isEnd) = state.withLock { state in
        let isEnd = state.isInputEnded && state.slots.isEmpty && state.ready.isEmpty
        let taken = (state.ready, state.readyWindow, isEnd)
        state.ready = []
        state.readyWindow = Window()
        return taken
      }
      if isEnd { break }
      if bytes.isEmpty {
        readyChanged.wait()
        continue
      }
      var failure: OutputError?
      // Once nobody reads, what is in flight is still finished, and its responses are dropped.
      if !state.withLock({ $0.outcome.outputFailure != nil }) {
        do throws(OutputError) { try writeAll(bytes, to: 1) } catch { failure = error }
      }
      state.withLock { state in
        state.window -= freed
        if let failure { state.outcome.outputFailure = failure }
      }
      roomChanged.signal()
      if failure != nil { onStop() }
    }
    let (waiter, outcome) = state.withLock { state in
      state.isFinished = true
      return (state.waiter.take(), state.outcome)
    }
    waiter?.resume(returning: outcome)
  }

  /// Waits until the last response is written.
  func finished() async -> Outcome {
    await withCheckedContinuation { continuation in
      let outcome: Outcome? = state.withLock { state in
        if state.isFinished { return state.outcome }
        state.waiter = continuation
        return nil
      }
      if let outcome { continuation.resume(returning: outcome) }
    }
  }
}

/// Runs the tasks that prefer it one at a time, in the order in which they became ready. A task runs here until it first
/// waits, so tasks that are started one after the other call the store in that order.
private final class SerialLane: TaskExecutor {
  private let queue = DispatchQueue(label: "logstore.append")

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    queue.async { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
  }
}
