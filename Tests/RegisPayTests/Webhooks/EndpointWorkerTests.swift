import LogStore
import Logging
import Synchronization
import Testing

@testable import RegisPay

/// Endpoints on a real log, a real file and real HTTP, with a calendar of the test's.
@Suite("An endpoint")
struct EndpointWorkerTests {
  @Test("gets every event from its registration on, in order, once each")
  func inOrder() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.callLimit = 1
        try await bench.initiate(3)
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          let ids = try await bench.initiate(50)
          try await worker.rests(at: 53)
          #expect(receiver.ids == ids)
          let log = try await webhooks.log(of: worker)
          #expect(log.map(\.event) == ids.reversed())
          #expect(log.allSatisfy { $0.outcome == .delivered && $0.attempt == 1 && $0.status == 200 })
        }
      }
    }
  }

  @Test("gets only the types that it asked for, and its checkpoint moves past the rest")
  func filtered() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        try await bench.delivering { webhooks in
          let worker = try await webhooks.add(receiver.url, events: [.cancellationRequested])
          try await bench.initiate(20)
          let id = try await bench.log.initiate(Money(minorUnits: 1, currency: Currency.supported[0]))
          _ = try await bench.log.request(.cancel, of: id)
          try await bench.initiate(20)
          try await worker.rests(at: 42)
          #expect(receiver.ids == [WebhookMessage.id(of: id, version: 2)])
        }
        let journal = try WebhookJournal.open(bench.directory, health: Health(stores: []))
        #expect(try journal.endpoints().map(\.progress.checkpoint) == [42])
        await journal.close()
      }
    }
  }

  @Test("that fails is tried again by the schedule, each time with the same id and body, until it takes the message")
  func schedule() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.failureLimit = 100
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          receiver.respond { _ in .status(500) }
          let ids = try await bench.initiate(1)
          for (index, delay) in RetrySchedule.days.enumerated() {
            try await eventually("it waits") { try await webhooks.log(of: worker).count == index + 1 }
            try await eventually("a timer is set") { bench.clock.nextWake == bench.clock.now + delay.microseconds }
            let entry = try #require(try await webhooks.log(of: worker).first)
            #expect(entry.attempt == index + 1)
            #expect(entry.outcome == .retrying && entry.status == 500 && entry.error == "responded with 500")
            #expect(entry.nextTryMicroseconds == bench.clock.now + delay.microseconds)
            if index == RetrySchedule.days.count - 1 { receiver.respond { _ in .ok } }
            bench.clock.advance(by: delay - .microseconds(1))
            #expect(receiver.received.count == index + 1)
            bench.clock.advance(by: .microseconds(1))
          }
          try await eventually("it is delivered") { await worker.status.waitingCount == 0 }
          #expect(receiver.ids == Array(repeating: ids[0], count: 10))
          #expect(Set(receiver.received.map(\.body)).count == 1)
          #expect(Set(receiver.received.map { $0.headers["webhook-timestamp"] }).count == 10)
        }
      }
    }
  }

  @Test("that fails keeps neither another endpoint nor its own later messages waiting")
  func deadEndpoint() async throws {
    try await FakeReceiver.run { receiver in
      try await FakeReceiver.run { silent in
        silent.respond { _ in
          try? await Task.sleep(for: .seconds(3_600))
          return .ok
        }
        try await WebhookBench.run { bench in
          try await bench.delivering { webhooks in
            let dead = try await webhooks.add("http://127.0.0.1:1025/")
            let slow = try await webhooks.add(silent.url)
            let sound = try await webhooks.add(receiver.url)
            let ids = try await bench.initiate(200)
            try await sound.rests(at: 200)
            #expect(Set(receiver.ids) == Set(ids) && receiver.ids.count == 200)
            try await eventually("the dead one is tried") { await dead.status.waitingCount > 0 }
            // Bounded: what it can't take stays on the log.
            #expect(await dead.status.waitingCount <= 8 + 5)
            #expect(await slow.status.progress.checkpoint == 0)
            #expect(silent.received.count <= 8)
          }
        }
      }
    }
  }

  @Test("that was down takes all that happened meanwhile as soon as one message gets through")
  func recovers() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        // What waits is sent because of the recovery, not because its time has come.
        bench.options.schedule.delays = [.seconds(86_400)]
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          receiver.respond { _ in .status(502) }
          let ids = try await bench.initiate(300)
          try await eventually("it is known to fail") { await worker.isFailing }
          try await eventually("it rests") { await worker.inFlightCount == 0 }
          let tried = receiver.received.count
          #expect(tried < 20)
          receiver.respond { _ in .ok }
          bench.clock.advance(by: .seconds(5 * 60))
          try await worker.rests(at: 300)
          try await eventually("nothing waits") { await worker.status.waitingCount == 0 }
          #expect(Set(receiver.ids.dropFirst(tried)) == Set(ids))
          #expect(receiver.received.count == tried + 300)
        }
      }
    }
  }

  @Test("is not sent more than its limit of messages that wait, and its cursor stays before the rest")
  func waitingLimit() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.failureLimit = .max
        bench.options.waitingLimit = 10
        bench.options.schedule.delays = [.seconds(3_600)]
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          receiver.respond { _ in .status(500) }
          try await bench.initiate(100)
          try await eventually("it is full") { await worker.status.waitingCount == 10 }
          try await eventually("it rests") { await worker.inFlightCount == 0 }
          #expect(await worker.status.progress.checkpoint == 10)
          #expect(receiver.received.count == 10)
        }
      }
    }
  }

  @Test("resumes after a restart: waiting messages keep their time, and no event is skipped or read again")
  func restart() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        receiver.respond { message in
          (try? message.json()["data"]?["amount"]) == .number("0.02") ? .status(500) : .ok
        }
        let ids = Mutex<[String]>([])
        try await bench.delivering { webhooks in
          let worker = try await webhooks.add(receiver.url)
          let first = try await bench.initiate(5)
          ids.withLock { $0 = first }
          try await worker.rests(at: 5)
          #expect(await worker.status.waitingCount == 1)
        }
        let before = receiver.ids
        #expect(before.sorted() == ids.withLock { $0 }.sorted())
        // While it is down, more happens, and less time passes than the retry waits for.
        let more = try await bench.initiate(5)
        bench.clock.advance(by: .seconds(4))
        receiver.respond { _ in .ok }
        try await bench.delivering { webhooks in
          let worker = try #require(webhooks.all.first)
          try await worker.rests(at: 10)
          #expect(Set(receiver.ids.dropFirst(5)) == Set(more) && receiver.ids.count == 10)
          bench.clock.advance(by: .seconds(1))
          try await eventually("the retry is made") { await worker.status.waitingCount == 0 }
          try await worker.rests(at: 10)
          #expect(receiver.ids.last == ids.withLock { $0[1] })
          #expect(receiver.ids.count == 11)
          #expect(try await webhooks.log(of: worker).first?.attempt == 2)
        }
      }
    }
  }

  @Test("gets a message that was in flight when the server was cut off again, with the same id")
  func cutOff() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        let ids = Mutex<[String]>([])
        receiver.respond { _ in
          try? await Task.sleep(for: .seconds(3_600))
          return .ok
        }
        try await bench.delivering { webhooks in
          _ = try await webhooks.add(receiver.url)
          let first = try await bench.initiate(3)
          ids.withLock { $0 = first }
          try await eventually("all are in flight") { receiver.received.count == 3 }
        }
        receiver.respond { _ in .ok }
        try await bench.delivering { webhooks in
          try await webhooks.all[0].rests(at: 3)
          #expect(receiver.received.count == 6)
          #expect(Set(receiver.ids) == Set(ids.withLock { $0 }))
          #expect(try await webhooks.log(of: webhooks.all[0]).allSatisfy { $0.attempt == 1 })
        }
      }
    }
  }

  @Test("that responds with 410 is disabled with the reason, also after a restart, and resumes when enabled")
  func gone() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.callLimit = 1
        receiver.respond { _ in .status(410) }
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          try await bench.initiate(4)
          try await eventually("it is disabled") { await worker.status.endpoint.disabled != nil }
          try await eventually("it rests") { await worker.inFlightCount == 0 }
          #expect(await worker.status.endpoint.disabled?.reason.contains("410") == true)
          #expect(try await webhooks.log(of: worker).map(\.outcome) == [.disabled])
        }
        receiver.respond { _ in .ok }
        try await bench.delivering { [bench] webhooks in
          let worker = webhooks.all[0]
          bench.clock.advance(by: .seconds(7 * 86_400))
          #expect(await worker.status.endpoint.disabled?.reason.contains("410") == true)
          #expect(receiver.received.count == 1)
          let status = try await worker.change(.init(isEnabled: true))
          #expect(status.endpoint.disabled == nil)
          try await worker.rests(at: 4)
          try await eventually("nothing waits") { await worker.status.waitingCount == 0 }
          #expect(receiver.received.count == 5)
        }
      }
    }
  }

  @Test("that took nothing for days is disabled, says so, and has lost nothing when it is enabled")
  func daysOfFailure() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.schedule.delays = [.seconds(60), .seconds(3_600)]
        let health = Health(stores: [])
        let webhooks = try Webhooks.open(
          bench.directory, log: bench.log, options: bench.options, health: health, logger: silent)
        let run = Task { try await webhooks.run() }
        let worker = try await webhooks.add(receiver.url)
        // A success from before is none of the days of failure.
        try await bench.initiate(1)
        try await worker.rests(at: 1)
        bench.clock.advance(by: .seconds(60))
        receiver.respond { _ in .status(500) }
        try await bench.initiate(1)
        for count in 1...2 {
          try await eventually("it waits") { await worker.status.waitingCount == 1 }
          try await eventually("it rests") { await worker.inFlightCount == 0 && receiver.received.count == count + 1 }
          try await eventually("a timer is set") { bench.clock.nextWake != nil }
          bench.clock.advance(by: .seconds(3_600))
        }
        try await eventually("it is disabled") { await worker.status.endpoint.disabled != nil }
        let reason = try #require(await worker.status.endpoint.disabled?.reason)
        #expect(reason.contains("Nothing has been delivered since") && reason.contains("responded with 500"))
        #expect(health.warnings == ["webhook \(worker.id) is disabled: \(reason)"])
        receiver.respond { _ in .ok }
        _ = try await worker.change(.init(isEnabled: true))
        #expect(health.warnings.isEmpty)
        try await eventually("it is delivered") { await worker.status.waitingCount == 0 }
        #expect(receiver.received.count == 5)
        run.cancel()
        _ = await run.result
        await webhooks.close()
      }
    }
  }

  @Test("that accepts all but one message continues without it, and the list of deliveries shows it")
  func givenUp() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.schedule.delays = [.seconds(60)]
        receiver.respond { message in
          (try? message.json()["data"]?["amount"]) == .number("0.02") ? .status(400) : .ok
        }
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          let ids = try await bench.initiate(3)
          try await worker.rests(at: 3)
          bench.clock.advance(by: .seconds(60))
          try await eventually("the message is given up") { await worker.status.waitingCount == 0 }
          #expect(await worker.status.endpoint.disabled == nil)
          try await eventually("it is listed") { try await webhooks.log(of: worker).count == 4 }
          let entry = try #require(try await webhooks.log(of: worker).first)
          #expect(entry.event == ids[1] && entry.outcome == .givenUp && entry.attempt == 2)
          // It can still be asked for.
          receiver.respond { _ in .ok }
          _ = try await worker.replay(1)
          try await eventually("it is sent") { receiver.received.count == 5 }
          #expect(receiver.ids.last == ids[1])
        }
      }
    }
  }

  @Test("that asks for time gets it, for all its messages", arguments: [429, 503])
  func retryAfter(_ status: Int) async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.callLimit = 1
        receiver.respond { _ in .status(status, [("Retry-After", "600")]) }
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          let ids = try await bench.initiate(5)
          try await eventually("it waits") { await worker.status.waitingCount == 1 }
          try await eventually("it rests") { await worker.inFlightCount == 0 }
          try await eventually("a timer is set") { bench.clock.nextWake == bench.clock.now + 1_000_000 * 600 }
          receiver.respond { _ in .ok }
          bench.clock.advance(by: .seconds(599))
          #expect(receiver.received.count == 1)
          bench.clock.advance(by: .seconds(1))
          try await worker.rests(at: 5)
          #expect(Set(receiver.ids) == Set(ids) && receiver.received.count == 6)
        }
      }
    }
  }

  @Test("gets everything from an offset on once more, when somebody asks")
  func replay() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.callLimit = 1
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          let ids = try await bench.initiate(10)
          try await worker.rests(at: 10)
          #expect(try await worker.replay(from: 6).progress.checkpoint == 6)
          try await worker.rests(at: 10)
          #expect(receiver.ids == ids + ids[6...])
          // Forward leaves nothing out.
          #expect(try await worker.replay(from: 1_000).progress.checkpoint == 10)
        }
      }
    }
  }

  @Test("gets everything once more also after a crash, when somebody asks while a message is in flight")
  func replayInFlight() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.callLimit = 1
        let (held, release) = AsyncStream<Void>.makeStream()
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          let ids = try await bench.initiate(3)
          try await worker.rests(at: 3)
          receiver.respond { _ in
            for await _ in held {}
            return .ok
          }
          let last = try await bench.initiate(1)
          try await eventually("it is in flight") { receiver.ids == ids + last }
          // What is on disk says so too: the message in flight does not keep the checkpoint behind the replayed ones.
          #expect(try await worker.replay(from: 1).progress.checkpoint == 1)
          release.finish()
          try await worker.rests(at: 4)
          #expect(receiver.ids == ids + last + ids[1...] + last)
        }
      }
    }
  }

  @Test("is signed for with the old secret as well after a rotation, until the overlap ends")
  func rotation() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        try await bench.delivering { webhooks in
          let worker = try await webhooks.add(receiver.url)
          let old = await worker.endpoint.secret
          let new = try await worker.rotate().secret
          func check(_ secrets: [WebhookSecret]) async throws {
            let count = receiver.received.count
            try await bench.initiate(1)
            try await eventually("it is delivered") { receiver.received.count == count + 1 }
            let message = try #require(receiver.received.last)
            let time = try #require(message.headers["webhook-timestamp"].flatMap(UInt64.init))
            let expected = WebhookSignature(
              id: message.id, timestamp: time, body: Array(message.body.utf8), secrets: secrets)
            #expect(message.headers["webhook-signature"] == expected.field)
          }
          try await check([new, old])
          bench.clock.advance(by: .seconds(24 * 3_600))
          try await check([new])
        }
      }
    }
  }

  @Test("says in one line that it is disabled, however many of its messages were in flight")
  func disabledOnce() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        let lines = LineCollector()
        bench.logger = lines.logger
        receiver.respond { _ in .status(410) }
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          try await bench.initiate(bench.options.callLimit)
          try await eventually("all have ended") {
            let isAtRest = await worker.inFlightCount == 0
            let waiting = await worker.status.waitingCount
            return isAtRest && waiting > 0
          }
          #expect(lines.text.split(separator: "\n").filter { $0.contains("endpoint") }.count == 1, "\(lines.text)")
        }
      }
    }
  }

  @Test("that is removed gets nothing more, and nothing of it is stored")
  func removed() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        try await bench.delivering { webhooks in
          let worker = try await webhooks.add(receiver.url)
          receiver.respond { _ in .status(500) }
          try await bench.initiate(3)
          try await eventually("they wait") { await worker.status.waitingCount == 3 }
          try await webhooks.remove(worker)
          #expect(webhooks.all.isEmpty)
          let count = receiver.received.count
          try await bench.initiate(3)
          bench.clock.advance(by: .seconds(86_400))
          await #expect(throws: EndpointWorker.Refusal.removed) { try await worker.rotate() }
          #expect(try await webhooks.log(of: worker).isEmpty)
          #expect(receiver.received.count == count)
        }
        try await bench.delivering { webhooks in #expect(webhooks.all.isEmpty) }
      }
    }
  }

  @Test("no secret and no URL comes into a log line, whatever happens")
  func quiet() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        let lines = LineCollector()
        bench.logger = lines.logger
        bench.options.schedule.delays = [.seconds(1)]
        bench.options.failureLimit = 2
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url + "?token=verysecret")
          let old = await worker.endpoint.secret.revealed
          let new = try await worker.rotate().secret.revealed
          receiver.respond { _ in .status(500) }
          try await bench.initiate(5)
          try await eventually("they wait") { await worker.status.waitingCount > 0 }
          try await eventually("it rests") { await worker.inFlightCount == 0 }
          bench.clock.advance(by: .seconds(600))
          try await eventually("it is disabled") { await worker.status.endpoint.disabled != nil }
          let text = lines.text
          #expect(text.contains("webhook endpoint disabled") && text.contains(worker.id))
          for secret in [old, new] {
            #expect(!text.contains(secret.dropFirst("whsec_".count)))
          }
          #expect(!text.contains("verysecret"))
          for entry in try await webhooks.log(of: worker) {
            #expect(entry.error?.contains("verysecret") == false)
          }
        }
      }
    }
  }

  @Test("its log of deliveries is bounded")
  func deliveryLimit() async throws {
    try await FakeReceiver.run { receiver in
      try await WebhookBench.run { bench in
        var bench = bench
        bench.options.deliveryLimit = 20
        try await bench.delivering { [bench] webhooks in
          let worker = try await webhooks.add(receiver.url)
          let ids = try await bench.initiate(100)
          try await worker.rests(at: 100)
          let log = try await webhooks.log(of: worker)
          #expect((20...23).contains(log.count))
          #expect(ids.contains(log[0].event))
        }
      }
    }
  }
}
