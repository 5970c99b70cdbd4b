import Testing

@testable import RegisPay

/// As the tests of endpoints, on a machine whose calendar is wrong for a while.
@Suite("An endpoint, when the clock is wrong,")
struct EndpointClockTests {
  static let wrongClocks: [Int64] = [400 * 86_400, -400 * 86_400]

  @Test("waits as long as it was asked to when the clock was wrong and is set right", arguments: wrongClocks)
  func clockSetRight(_ seconds: Int64) async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        receiver.respond { _ in .status(503, [("Retry-After", "15")]) }
        bench.clock.set(by: seconds)
        try await bench.delivering { webhooks in
          let worker = try await webhooks.add(receiver.url)
          try await bench.initiate(1)
          try await eventually("it waits") { await worker.status.waitingCount == 1 }
          try await eventually("it rests") { await worker.inFlightCount == 0 }
          try await eventually("a timer is set") { bench.clock.nextWake == bench.clock.now + 15_000_000 }
          bench.clock.set(by: -seconds)
          #expect(await worker.status.nextTryMicroseconds == bench.clock.now + 15_000_000)
          receiver.respond { _ in .ok }
          bench.clock.advance(by: .seconds(15))
          try await eventually("it is delivered") { await worker.status.waitingCount == 0 }
          #expect(receiver.received.count == 2)
        }
      }
    }
  }

  @Test("does not wait for a time that a wrong clock wrote, when it starts with the right one")
  func clockSetWhileStopped() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        receiver.respond { _ in .status(503, [("Retry-After", "15")]) }
        bench.clock.set(by: Self.wrongClocks[0])
        try await bench.delivering { webhooks in
          let worker = try await webhooks.add(receiver.url)
          try await bench.initiate(1)
          try await eventually("it waits") { await worker.status.waitingCount == 1 }
          try await eventually("it rests") { await worker.inFlightCount == 0 }
        }
        bench.clock.set(by: -Self.wrongClocks[0])
        receiver.respond { _ in .ok }
        try await bench.delivering { webhooks in
          try await eventually("it is delivered") { await webhooks.all[0].status.waitingCount == 0 }
        }
      }
    }
  }

  @Test("that keeps failing gets all messages once the clock is right and it responds", arguments: wrongClocks)
  func clockSetWhileFailing(_ seconds: Int64) async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        receiver.respond { _ in .status(500) }
        bench.clock.set(by: seconds)
        try await bench.delivering { webhooks in
          let worker = try await webhooks.add(receiver.url)
          try await bench.initiate(bench.options.failureLimit + 3)
          try await eventually("it fails") { await worker.isFailing }
          try await eventually("it rests") { await worker.inFlightCount == 0 }
          bench.clock.set(by: -seconds)
          receiver.respond { _ in .ok }
          // The longest wait of the first try, and that of what fails.
          bench.clock.advance(by: bench.options.probeInterval)
          try await eventually("it gets all") {
            let status = await worker.status
            return status.waitingCount == 0 && status.progress.checkpoint == status.logEnd
          }
        }
      }
    }
  }

  @Test("is signed to with its old secret no longer than said, however the clock is set", arguments: wrongClocks)
  func clockSetAfterRotation(_ seconds: Int64) async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        bench.clock.set(by: seconds)
        try await bench.delivering { webhooks in
          let worker = try await webhooks.add(receiver.url)
          _ = try await worker.rotate()
          bench.clock.set(by: -seconds)
          for (hours, count) in [(23, 2), (2, 1)] {
            bench.clock.advance(by: .seconds(hours * 3_600))
            let now = await worker.now()
            #expect(await worker.endpoint.secrets(at: now).count == count)
          }
        }
        // The file still holds what was written then.
        try await bench.delivering { webhooks in
          bench.clock.advance(by: bench.options.secretOverlap)
          let worker = webhooks.all[0]
          let now = await worker.now()
          #expect(await worker.endpoint.secrets(at: now).count == 1)
        }
      }
    }
  }
}
