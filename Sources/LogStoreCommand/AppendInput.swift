import Glibc
import LogStore

/// Reads standard input, turns its lines into appends and submits them to the pipeline. Runs on a thread of its own, since
/// it blocks: on the input, and on the pipeline when enough is in flight.
struct AppendInput: Sendable {
  let pipeline: AppendPipeline
  /// Events in one atomic append.
  let batchSize: Int
  /// Readable once the command was interrupted, or the pipeline stopped.
  let interrupted: Int32

  /// Refused lines in an unfinished batch whose responses wait for the batch. Beyond this number the batch is sent as it
  /// is, since an endless stream of refused lines must not fill the memory.
  static let heldRefusalsMax = 1 << 16
  private static let chunkBytes = 1 << 16

  func run() {
    var splitter = LineSplitter()
    var batch = Batch(pipeline: pipeline, size: batchSize)
    var chunk = [UInt8](repeating: 0, count: Self.chunkBytes)
    var failure: CommandFailure?
    var isComplete = false
    reading: while true {
      switch waitForInput() {
      case .interrupted: break reading
      case .failed(let code):
        failure = Self.failure(code)
        break reading
      case .ready: break
      }
      let count = chunk.withUnsafeMutableBytes { read(STDIN_FILENO, $0.baseAddress, $0.count) }
      if count == 0 {
        isComplete = true
        break
      }
      if count < 0 {
        if errno == EINTR || errno == EAGAIN { continue }
        failure = Self.failure(errno)
        break
      }
      chunk.withUnsafeBufferPointer { bytes in
        splitter.feed(UnsafeBufferPointer(rebasing: bytes[..<count])) { batch.add($0) }
      }
      if pipeline.isStopped { break }
    }
    if isComplete { splitter.finish { batch.add($0) } }
    if let stopped = pipeline.failure {
      batch.refuse(stopped.description)
    } else if isComplete {
      batch.send()
    } else {
      batch.refuse("interrupted before the batch was complete")
    }
    pipeline.endInput(failure)
  }

  private static func failure(_ code: Int32) -> CommandFailure {
    CommandFailure(
      message: "reading standard input failed: \(String(cString: strerror(code))); "
        + "every line with ok is durable, send the rest again")
  }

  private enum Readiness {
    case ready
    case interrupted
    case failed(Int32)
  }

  private func waitForInput() -> Readiness {
    var waiting = [
      pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0),
      pollfd(fd: interrupted, events: Int16(POLLIN), revents: 0),
    ]
    while poll(&waiting, 2, -1) < 0 {
      if errno != EINTR { return .failed(errno) }
    }
    return waiting[1].revents != 0 ? .interrupted : .ready
  }
}

/// The lines of the append that is being built.
private struct Batch {
  let pipeline: AppendPipeline
  let size: Int
  private var events: [NewEvent] = []
  private var responses: [LineResponse] = []
  private var byteCount = 0
  private var refusals = 0
  /// Lines still to be refused, of a batch that was too large for one append.
  private var oversizedLinesLeft = 0

  init(pipeline: AppendPipeline, size: Int) {
    self.pipeline = pipeline
    self.size = size
  }

  /// Adds one line. Blocks while enough is in flight. Returns false once the pipeline accepts nothing more.
  mutating func add(_ line: LineSplitter.Line) -> Bool {
    do throws(LineRefusal) {
      switch line {
      case .tooLong: throw LineRefusal("the line is over \(EventLine.byteLimit) bytes, more than any event needs")
      case .bytes(let bytes): add(try EventLine.parse(bytes))
      }
    } catch {
      responses.append(.refused(error.reason))
      refusals += 1
      // No event precedes it in the batch, so its response can be sent now.
      if events.isEmpty || refusals >= AppendInput.heldRefusalsMax { send() }
    }
    return !pipeline.isStopped
  }

  private mutating func add(_ event: NewEvent) {
    if oversizedLinesLeft > 0 {
      oversizedLinesLeft -= 1
      pipeline.submit(PendingAppend(events: [], responses: [.refused(Self.oversized)], byteCount: 0))
      return
    }
    let bytes = EventSize.inFrame(event)
    if byteCount + bytes > Limits.frameBytes - EventSize.frameOverhead {
      // The store would refuse the append as a whole. Its lines are refused one by one, in bounded memory.
      oversizedLinesLeft = size - events.count - 1
      responses.append(.event)
      refuse(Self.oversized)
      return
    }
    events.append(event)
    responses.append(.event)
    byteCount += bytes
    if events.count == size { send() }
  }

  /// Submits the batch as it is.
  mutating func send() {
    guard !responses.isEmpty else { return }
    pipeline.submit(PendingAppend(events: events, responses: responses, byteCount: byteCount))
    clear()
  }

  /// Responds to every waiting line with `err`.
  mutating func refuse(_ reason: String) {
    let refused = responses.map { response in
      if case .event = response { LineResponse.refused(reason) } else { response }
    }
    if !refused.isEmpty { pipeline.submit(PendingAppend(events: [], responses: refused, byteCount: 0)) }
    clear()
  }

  private mutating func clear() {
    events = []
    responses = []
    byteCount = 0
    refusals = 0
  }

  private static let oversized =
    "the batch is over the limit of \(Limits.frameBytes) bytes for one append; use a smaller --batch"
}

/// The bytes that an event takes in the log, as in docs/FORMAT.md.
private enum EventSize {
  /// Frame header and padding.
  static let frameOverhead = 48 + 8
  static func inFrame(_ event: NewEvent) -> Int {
    28 + event.stream.utf8.count + event.type.utf8.count + event.payload.count
  }
}
