import Dispatch
import LogStore
import Synchronization

/// What a line of input is answered with.
enum LineAnswer: Sendable {
  /// It is an event of the append; answered with its offset, or with the reason why the append failed.
  case event
  case refused(String)
}

/// One append and the lines it came from.
struct PendingAppend: Sendable {
  var events: [NewEvent]
  /// In the order of the lines; as many `.event` among them as there are ``events``.
  var answers: [LineAnswer]
  /// What the events take in memory, about.
  var byteCount: Int
}

/// Many appends in flight, their answers in order, and memory bounded.
///
/// Three threads and the store work hand in hand: the input's thread submits and blocks while enough is in flight; the
/// lane starts the appends in the order of submission; the output's thread writes the answers that are due, all of
/// them with one `write`, as soon as there is one. An append counts as in flight until its answers were written, so a
/// reader that doesn't read holds back the input too.
final class AppendPipeline: Sendable {
  /// At least one append is always let through, however large it is.
  private static let eventsInFlightMax = 256
  private static let appendsInFlightMax = 64
  private static let bytesInFlightMax = 32 << 20

  struct Outcome: Sendable {
    /// What stopped the store.
    var failure: LogStoreError?
    var inputFailure: CommandFailure?
    var outputFailure: OutputError?
    /// Lines answered with `err`.
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
    /// Answers that are due.
    var ready: [UInt8] = []
    /// What the answers in `ready` give back to the window once they were written.
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

    /// The limits on events and appends are alternatives, the greater counts: 256 single lines, or 64 batches.
    var hasRoom: Bool {
      appends == 0
        || (events < eventsInFlightMax || appends < appendsInFlightMax) && bytes < bytesInFlightMax
    }
  }

  private let store: LogStore
  private let lane = SerialLane()
  private let state = Mutex(State())
  /// Signalled whenever the window may have got room.
  private let roomChanged = DispatchSemaphore(value: 0)
  /// Signalled whenever there may be something to write, or the end.
  private let readyChanged = DispatchSemaphore(value: 0)

  /// Called when ``isStopped`` has become true: wakes the input's thread.
  private let onStop: @Sendable () -> Void

  init(store: LogStore, onStop: @escaping @Sendable () -> Void) {
    self.store = store
    self.onStop = onStop
  }

  /// The store has failed, or nobody reads the answers: there is no use in more input.
  var isStopped: Bool { state.withLock { $0.isStopped } }

  /// What stopped the store.
  var failure: LogStoreError? { state.withLock { $0.outcome.failure } }

  /// Takes the next append; blocks while enough is in flight. Only for the input's thread.
  func submit(_ pending: PendingAppend) {
    let cost = Window(events: pending.answers.count, appends: 1, bytes: pending.byteCount)
    while true {
      let number: Int? = state.withLock { state in
        // After a failure nothing has to be held back: the answers are all but written.
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
        // `.stopped` only repeats what another append was told first.
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

  /// Moves the answers of the oldest appends that are done to `ready`.
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
      for answer in slot.pending.answers {
        switch answer {
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
        events: slot.pending.answers.count, appends: 1, bytes: slot.pending.byteCount)
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

  /// Writes answers until the last one; blocks. For a thread of its own.
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
      // Once nobody reads, what is in flight is still finished, only its answers go nowhere.
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

  /// Waits until the last answer was written.
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

/// Runs the tasks that prefer it one at a time, in the order in which they became ready. A task runs here up to where
/// it first waits, so tasks started one after the other call the store one after the other.
private final class SerialLane: TaskExecutor {
  private let queue = DispatchQueue(label: "logstore.append")

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    queue.async { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
  }
}
