import AsyncHTTPClient
import Foundation
import LogStore
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import RegisPay

@Suite("Event loops")
struct LoopDelayTests {
  /// The bound is 10 ms; this is a debug build among tests that run at the same time. What held a loop for the length of a
  /// log took seconds here.
  private static let limit = Duration.milliseconds(300)

  @Test("no request holds a loop, whatever it reads: a whole log of which it wants nothing, a long payment, the ledger")
  func dearRequests() async throws {
    try await withTemporaryFolder { folder in
      let long = PaymentID.random()
      try await Self.fill(folder + "/data", long: long)
      try await TestServer.run({ $0.directory = folder + "/data" }) { server in
        try await eventually("the consumers have passed what was there") {
          let status = try await server.get("/api/v1/consumers").json()
          guard case .array(let consumers) = status["consumers"], !consumers.isEmpty else { return false }
          return consumers.allSatisfy { $0["lag"] == .number("0") } && status["paymentList"]?["complete"] == .bool(true)
        }
        let watch = LoopWatch()
        try await withThrowingTaskGroup(of: Void.self) { group in
          for _ in 0..<8 {
            group.addTask {
              try await Self.readStream(
                server, "from=0&type=PaymentRefundFailed", until: "\"type\":\"PaymentRefundFailed\"")
            }
          }
          for path in ["/api/v1/payments/\(long)", "/api/v1/payments/\(long)/events", "/psp/api/ledger"] {
            group.addTask {
              let response = try await server.get(path)
              #expect(response.status == 200, "\(path)")
            }
          }
          try await group.waitForAll()
        }
        let longest = try await watch.stop()
        #expect(longest < Self.limit, "a loop was held for \(longest)")
      }
    }
  }

  /// A log of which most is nobody's, a payment that was put off again and again, and charges.
  private static func fill(_ directory: String, long: PaymentID) async throws {
    let money = Money(minorUnits: 100, currency: Currency.supported[0])
    let payments = try openStore(directory, "payments")
    for first in stride(from: 0, to: 100_000, by: 1_000) {
      let events = (first..<first + 1_000).map {
        NewEvent(stream: "other-\($0 % 500)", type: "Other", payload: Array("{}".utf8))
      }
      _ = try await payments.appendBuffered(Append(events))
    }
    func event(_ event: PaymentEvent) -> NewEvent {
      NewEvent(stream: long.stream, type: event.type, payload: event.payload)
    }
    let delays = (1...5_000).map { number in
      let delay = Delay(
        PaymentWork(.create), untilMicroseconds: UInt64(number), attempts: number, ownFailures: 0, reason: "try later")
      return event(.delayed(delay))
    }
    _ = try await payments.append(Append(event(.initiated(long, money))))
    _ = try await payments.append(Append(delays))
    _ = try await payments.append(Append(event(.failed(step: .create, reason: "given up"))))
    _ = try await payments.append(Append(NewEvent(stream: "other", type: "PaymentRefundFailed", payload: [])))
    try await payments.close()

    let simulator = try openStore(directory, "simulator")
    let charges = (0..<5_000).map { number in
      let charge = Charge(reference: "\(number)", idempotencyKey: nil, money: money)
      return charge.event(.created, charge.json)
    }
    _ = try await simulator.append(Append(charges))
    try await simulator.close()
  }

  private static func openStore(_ directory: String, _ name: String) throws -> LogStore {
    var options = LogStore.Options()
    options.segmentBytes = 1 << 20
    return try LogStore.open("\(directory)/\(name)", options: options)
  }

  private static func readStream(_ server: TestServer, _ query: String, until text: String) async throws {
    let request = HTTPClientRequest(url: server.url + "/api/v1/events?" + query)
    let response = try await HTTPClient.shared.execute(request, timeout: .seconds(60))
    #expect(response.status == .ok)
    var seen = ""
    for try await piece in response.body {
      seen += String(buffer: piece)
      if seen.contains(text) { return }
    }
    Issue.record("the stream ended before \(text): \(seen)")
  }
}

/// Has every event loop note each millisecond when it was there last, and keeps the longest time between two, without that
/// in which the loop could go on and other threads had the processors: a busy machine holds no loop.
private final class LoopWatch: Sendable {
  private let longest = Mutex(Duration.zero)
  private let tasks: Mutex<[RepeatedTask]>

  init() {
    tasks = Mutex([])
    for loop in MultiThreadedEventLoopGroup.singleton.makeIterator() {
      let last = NIOLoopBoundBox<(at: ContinuousClock.Instant, queued: Duration)?>
        .makeBoxSendingValue(nil, eventLoop: loop)
      let task = loop.scheduleRepeatedTask(initialDelay: .zero, delay: .milliseconds(1)) { [self] _ in
        let now = (at: ContinuousClock.now, queued: Self.queued())
        let held = last.value.map { $0.at.duration(to: now.at) - (now.queued - $0.queued) } ?? .zero
        last.value = now
        longest.withLock { $0 = max($0, held) }
      }
      tasks.withLock { $0.append(task) }
    }
  }

  /// How long this thread has waited for a processor in its life. Zero on a kernel that does not tell.
  private static func queued() -> Duration {
    // Nanoseconds on a processor, nanoseconds waiting for one, and turns.
    let words = (try? String(contentsOfFile: "/proc/thread-self/schedstat", encoding: .utf8))?.split(separator: " ")
    return .nanoseconds(words?.dropFirst().first.flatMap { Int64($0) } ?? 0)
  }

  /// Ends with a last look from each loop.
  func stop() async throws -> Duration {
    for loop in MultiThreadedEventLoopGroup.singleton.makeIterator() { try await loop.submit {}.get() }
    for task in tasks.withLock({ $0 }) { task.cancel() }
    return longest.withLock { $0 }
  }
}
