import Foundation
import GRDB
import LogStore
import SeededRandom
import Testing

@testable import RegisPay

@Suite("The list of payments")
struct ProjectionTests {
  private static let nowhere = CursorCommit(name: "test", checkpoint: 0)

  /// Runs a projection in a folder while `work` runs.
  private func withProjection(
    _ folder: String, _ store: LogStore, limits: PaymentSearch.Limits = .init(),
    _ work: (PaymentProjection) async throws -> Void
  ) async throws {
    let projection = try PaymentProjection.open(
      folder, log: PaymentLog(store), health: Health(stores: []), limits: limits, logger: silent)
    let run = Task { await projection.run() }
    let result: Result<Void, any Error>
    do {
      result = .success(try await work(projection))
    } catch {
      result = .failure(error)
    }
    run.cancel()
    await run.value
    await projection.close()
    try result.get()
  }

  @Test("a pipe instead of a database is refused, and blocks no thread", .timeLimit(.minutes(1)))
  func pipe() async throws {
    try await withTemporaryFolder { folder in
      let path = folder + "/pipe.sqlite"
      #expect(mkfifo(path, 0o600) == 0)
      #expect(throws: (any Error).self) { try DatabaseQueue(path: path).read { try Int.fetchOne($0, sql: "SELECT 1") } }
    }
  }

  private func caughtUp(_ projection: PaymentProjection, _ store: LogStore) async throws {
    try await eventually("it has caught up") { projection.status.nextOffset == store.reader.endOffset }
  }

  /// Payments in many states, appended in random order; the expected row of each comes from its stream.
  private func fill(_ store: LogStore, _ count: Int, _ generator: inout SeededGenerator) async throws -> [PaymentID] {
    let log = PaymentLog(store)
    var (ids, currencies) = ([PaymentID](), [Currency]())
    for _ in 0..<count {
      let currency = Currency.supported[Int.random(in: 0...2, using: &generator)]
      currencies.append(currency)
      ids.append(try await log.initiate(Money(minorUnits: .random(in: 1...20, using: &generator), currency: currency)))
    }
    for _ in 0..<4 * count {
      let index = Int.random(in: 0..<count, using: &generator)
      let id = ids[index]
      let reference = "ref-\(Int.random(in: 0...999, using: &generator))"
      let commands: [PaymentCommand] = [
        .recordCreated(reference: reference), .recordSettled, .recordCompleted, .refund(nil), .recordRefunded(1),
        .refund(Money(minorUnits: 1, currency: currencies[index])), .recordRefunded(2), .cancel,
        .decline(PaymentWork(.create), reason: "no"), .park(PaymentWork(.settle), reason: "no"),
      ]
      let command = commands[Int.random(in: 0..<commands.count, using: &generator)]
      _ = try await log.record(command, on: id, cursor: Self.nowhere)
    }
    return ids
  }

  private func expected(_ store: LogStore, _ ids: [PaymentID]) throws -> [PaymentRow] {
    try ids.map { id in
      let loaded = try #require(try PaymentLog(store).load(id))
      return PaymentRow(
        loaded.payment, version: loaded.version, offset: loaded.events[0].offset,
        createdMicroseconds: loaded.events[0].timestampMicroseconds,
        updatedMicroseconds: loaded.events[loaded.events.count - 1].timestampMicroseconds)
    }
  }

  /// - Parameter mayBeShort: pages may end before they are full.
  private func all(
    _ projection: PaymentProjection, _ query: PaymentQuery, mayBeShort: Bool = false
  ) async throws -> [PaymentRow] {
    var query = query
    var rows: [PaymentRow] = []
    while true {
      let page = try await projection.page(query)
      #expect(page.rows.count <= query.limit)
      rows += page.rows
      guard let next = page.next else { return rows }
      #expect(mayBeShort || page.rows.count == query.limit)
      query.after = PaymentQuery.Key(next.description)
      #expect(query.after == next)
    }
  }

  /// Sets filters that few queries have.
  private func chooseFurther(_ query: inout PaymentQuery, _ rows: [PaymentRow], _ generator: inout SeededGenerator) {
    func isChosen() -> Bool { Int.random(in: 0..<5, using: &generator) == 0 }
    if isChosen() { query.amount = .random(in: 1...20, using: &generator) }
    if isChosen() { query.step = [.create, .settle, .refund].randomElement(using: &generator) }
    if isChosen() { query.reason = ["no", "n"].randomElement(using: &generator) }
    if isChosen() { query.createdFrom = rows.randomElement(using: &generator)?.createdMicroseconds }
    if isChosen() { query.belowOffset = rows.randomElement(using: &generator)?.offset }
    if isChosen() { query.createdBefore = rows.randomElement(using: &generator)?.createdMicroseconds }
  }

  private func passesFurther(_ row: PaymentRow, _ query: PaymentQuery) -> Bool {
    (query.amount == nil || row.money.minorUnits == query.amount)
      && (query.step == nil || row.trouble?.step == query.step)
      && (query.reason == nil || row.trouble?.reason == query.reason)
      && row.offset < query.belowOffset ?? .max
      && row.createdMicroseconds >= query.createdFrom ?? 0
      && row.createdMicroseconds < query.createdBefore ?? .max
  }

  @Test("all supported currencies have the same number of decimals, which the filter for amounts relies on")
  func decimals() { #expect(Set(Currency.supported.map(\.exponent)).count == 1) }

  @Test("payments in trouble are grouped by step and reason, and a group's filter finds just its payments")
  func troubles() async throws {
    var generator = SeededGenerator.printed("TEST_REGISPAY_SEED")
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      var ids = try await fill(store, 120, &generator)
      // One of each, whatever was drawn.
      for trouble in [
        PaymentCommand.park(PaymentWork(.create), reason: "no"), .decline(PaymentWork(.create), reason: "no"),
      ] {
        let log = PaymentLog(store)
        ids.append(try await log.initiate(Money(minorUnits: 1, currency: Currency.supported[0])))
        _ = try await log.record(trouble, on: ids[ids.count - 1], cursor: Self.nowhere)
      }
      try await withProjection(folder, store) { projection in
        try await eventually("it has its indexes") { !projection.status.isCatchingUp }
        try await caughtUp(projection, store)
        let rows = try expected(store, ids)
        for status in [PaymentStatus.failed, .declined] {
          let groups = try await projection.troubles(status, limit: 100)
          #expect(!groups.isEmpty && groups.map(\.count) == groups.map(\.count).sorted(by: >))
          #expect(groups.reduce(0) { $0 + $1.count } == rows.filter { $0.status == status }.count)
          for group in groups {
            var query = PaymentQuery()
            (query.status, query.step, query.reason) = (status, group.step, group.reason)
            let found = try await all(projection, query)
            #expect(found.count == group.count)
            #expect(found.allSatisfy { $0.trouble?.step == group.step && $0.trouble?.reason == group.reason })
          }
        }
        #expect(try await projection.troubles(.failed, limit: 1).count == 1)
      }
      try await store.close()
    }
  }

  @Test("a count that would take too long says how many there are at least")
  func longCount() async throws {
    var generator = SeededGenerator.printed("TEST_REGISPAY_SEED")
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      _ = try await fill(store, 50, &generator)
      try await withProjection(folder, store, limits: .init(portionRows: 7, countTime: .zero)) { projection in
        try await eventually("it has its indexes") { !projection.status.isCatchingUp }
        try await caughtUp(projection, store)
        let counted = try await projection.count(PaymentQuery())
        #expect(counted.count == 7 && !counted.isWhole)
      }
      try await store.close()
    }
  }

  /// Those of a server, with time for a full page on any machine; so small that a page takes many portions; so short that each page is one portion, however few it
  /// finds; and with filters that are never rare.
  private static let searchLimits: [PaymentSearch.Limits] = [
    .init(pageTime: .seconds(600), countTime: .seconds(600)),
    .init(portionRows: 7, pageTime: .seconds(600), countTime: .seconds(600), sortedRows: 0),
    .init(portionRows: 7, pageTime: .zero, countTime: .seconds(600), sortedRows: 0),
    .init(portionRows: 7, pageTime: .zero, countTime: .seconds(600), sortedRows: 20),
  ]

  @Test(
    "every filter, search and order gives just the payments that it should, page by page, however short a page is cut",
    arguments: searchLimits.indices)
  func queries(_ number: Int) async throws {
    let limits = Self.searchLimits[number]
    var generator = SeededGenerator.printed("TEST_REGISPAY_SEED")
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      let ids = try await fill(store, 120, &generator)
      try await withProjection(folder, store, limits: limits) { projection in
        try await eventually("it has its indexes") { !projection.status.isCatchingUp }
        try await caughtUp(projection, store)
        let rows = try expected(store, ids)
        let id = ids[7].description
        let searches = [nil, "ref-1", "ref-", "nothing", "%", "'", id, String(id.prefix(1)), String(id.prefix(9)), "-"]
        for order in PaymentQuery.Order.allCases {
          for isDescending in [false, true] {
            for status in [nil] + PaymentStatus.allCases.map(Optional.some) {
              for search in searches {
                var query = PaymentQuery()
                (query.order, query.isDescending, query.status, query.search) = (order, isDescending, status, search)
                query.currency = Bool.random(using: &generator) ? nil : Currency.supported[0]
                query.refunded =
                  ([nil, nil] + PaymentRow.RefundedPart.allCases).randomElement(using: &generator) ?? nil
                query.limit = Int.random(in: 1...50, using: &generator)
                chooseFurther(&query, rows, &generator)
                let wanted = rows.filter { row in
                  passesFurther(row, query)
                    && (status == nil || row.status == status)
                    && (query.refunded == nil || row.refundedPart == query.refunded)
                    && (query.currency == nil || row.money.currency == query.currency)
                    && (search == nil || row.id.description.hasPrefix(search ?? "")
                      || row.reference?.hasPrefix(search ?? "") ?? false)
                }.sorted {
                  let (left, right) = (PaymentQuery.Key($0, in: order), PaymentQuery.Key($1, in: order))
                  let isBefore = (left.value, left.offset) < (right.value, right.offset)
                  return isDescending ? !isBefore && left != right : isBefore
                }
                let found = try await all(projection, query, mayBeShort: limits.pageTime == .zero)
                #expect(found == wanted, "\(query)")
                let counted = try await projection.count(query)
                #expect(counted.count == wanted.count && counted.isWhole, "\(query)")
              }
            }
          }
        }
      }
      try await store.close()
    }
  }

  @Test("pages begun before payments come and change continue without a gap or a repeat")
  func stablePages() async throws {
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      let log = PaymentLog(store)
      var ids: [PaymentID] = []
      for _ in 0..<50 { ids.append(try await log.initiate(Money(minorUnits: 1, currency: Currency.supported[0]))) }
      try await withProjection(folder, store) { projection in
        try await caughtUp(projection, store)
        var query = PaymentQuery()
        query.limit = 7
        var seen: [PaymentID] = []
        while true {
          let page = try await projection.page(query)
          seen += page.rows.map(\.id)
          guard let next = page.next else { break }
          query.after = next
          _ = try await log.initiate(Money(minorUnits: 1, currency: Currency.supported[0]))
          _ = try await log.record(.recordCreated(reference: "r"), on: ids[0], cursor: Self.nowhere)
          try await caughtUp(projection, store)
        }
        #expect(seen == ids.reversed())
      }
      try await store.close()
    }
  }

  @Test(
    "a place is read from its text, whatever number is in it, and from nothing else",
    arguments: [
      ("amount_5_7", 5, 7), ("updated_-0259_012", -259, 12), ("created_0_0", 0, 0),
      ("amount_9223372036854775807_9223372036854775807", .max, .max),
      ("amount_9223372036854775808_9223372036854775808", .max, .max),
      ("updated_-99999999999999999999_1", .min, 1), ("amount_100000000000000000000_1", nil, nil),
      ("amount_1_-1", nil, nil), ("amount__1", nil, nil), ("amount_-_1", nil, nil), ("amount_+1_1", nil, nil),
      ("amount_1", nil, nil), ("amount_1_1_1", nil, nil), ("size_1_1", nil, nil), ("", nil, nil),
    ] as [(String, Int64?, Int64?)])
  func places(_ text: String, _ value: Int64?, _ offset: Int64?) {
    let key = PaymentQuery.Key(text)
    #expect(key?.value == value)
    #expect(key?.offset == offset)
  }

  @Test("a key from a page in one order stands for the same payment in any other")
  func placesOfOtherOrders() async throws {
    var generator = SeededGenerator.printed("TEST_REGISPAY_SEED")
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      _ = try await fill(store, 40, &generator)
      try await withProjection(folder, store) { projection in
        try await caughtUp(projection, store)
        for order in PaymentQuery.Order.allCases {
          for other in PaymentQuery.Order.allCases {
            var query = PaymentQuery()
            (query.order, query.limit) = (order, 200)
            let rows = try await projection.page(query).rows
            for number in [0, 17, 38] {
              query.after = PaymentQuery.Key(rows[number], in: other)
              #expect(try await projection.page(query).rows == Array(rows.dropFirst(number + 1)), "\(order), \(other)")
            }
            guard other != order else { continue }
            query.after = PaymentQuery.Key(order: other, value: 1, offset: 1 << 40)
            await #expect(throws: UnlistedPayment.self) { _ = try await projection.page(query) }
          }
        }
      }
      try await store.close()
    }
  }

  @Test(
    "it continues from its checkpoint, and is rebuilt when its file is gone, damaged, of another version or of another log"
  )
  func rebuilding() async throws {
    var generator = SeededGenerator.printed("TEST_REGISPAY_SEED")
    try await withTemporaryFolder { folder in
      let file = folder + "/payments.sqlite"
      var ids: [PaymentID] = []
      func check(_ what: String, startsAt place: UInt64?) async throws {
        let store = try openStore(folder)
        ids += try await fill(store, 5, &generator)
        let projection = try PaymentProjection.open(
          folder, log: PaymentLog(store), health: Health(stores: []), logger: silent)
        if let place { #expect(projection.status.nextOffset == place, "\(what)") }
        await projection.close()
        try await withProjection(folder, store) { projection in
          try await caughtUp(projection, store)
          let rows = try await all(projection, PaymentQuery())
          #expect(try rows == expected(store, ids).reversed(), "\(what)")
        }
        try await store.close()
      }
      func end() throws -> UInt64 { try LogReader.open(folder + "/log").endOffset }
      try await check("new", startsAt: 0)
      try await check("going on", startsAt: try end())
      func removeJournal() {
        // With it SQLite would restore everything.
        for suffix in ["-wal", "-shm"] { try? FileManager.default.removeItem(atPath: file + suffix) }
      }
      try FileManager.default.removeItem(atPath: file)
      try await check("gone", startsAt: nil)
      removeJournal()
      try Data("not a database at all, but long enough to be looked at".utf8).write(to: URL(fileURLWithPath: file))
      try await check("no database", startsAt: 0)
      let whole = try Data(contentsOf: URL(fileURLWithPath: file))
      try whole.prefix(whole.count / 2).write(to: URL(fileURLWithPath: file))
      removeJournal()
      try await check("cut", startsAt: nil)
      try PaymentProjection.change(file, "UPDATE progress SET version = version + 1")
      try await check("another version", startsAt: 0)
      try PaymentProjection.change(file, "UPDATE progress SET log = 'another'")
      try await check("another log", startsAt: 0)
      // The log's event there has another stream, version and time.
      try PaymentProjection.change(
        file, "UPDATE progress SET log = substr(log, 1, instr(log, ' ')) || '0 7 7 another' WHERE instr(log, ' ') > 0")
      try await check("another history of the log", startsAt: 0)
      try PaymentProjection.change(file, "UPDATE progress SET place = place + 1000000")
      try await check("ahead of the log", startsAt: 0)
    }
  }

  @Test("it caches a bounded number of payments, and still returns each as it is")
  func bounded() async throws {
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      let log = PaymentLog(store)
      var recent = RecentPayments(log: log)
      let old = try await log.initiate(Money(minorUnits: 1, currency: Currency.supported[0]))
      for _ in 0..<25 {
        let events = (0..<1_000).map { _ in
          let id = PaymentID.random()
          let event = PaymentEvent.initiated(id, Money(minorUnits: 1, currency: Currency.supported[0]))
          return NewEvent(stream: id.stream, type: event.type, payload: event.payload)
        }
        _ = try await store.append(Append(events))
      }
      let events = try store.reader.events(from: 0, limit: .max)
      #expect(events.count == 25_001)
      for event in events { #expect(try recent.take(event) != nil) }
      #expect(recent.count <= 20_000)
      _ = try await log.record(.recordCreated(reference: "r"), on: old, cursor: Self.nowhere)
      let last = try #require(try store.reader.stream(old.stream).last)
      #expect(try recent.take(last)?.status == .created)
      #expect(try recent.take(last) == nil, "it is applied once")
      try await store.close()
    }
  }

  @Test("a page is read from an index, from few payments that an index finds, or from a bounded part of an index")
  func plans() async throws {
    for status in PaymentStatus.allCases {
      for order in PaymentQuery.Order.allCases {
        for search in [nil, "01234567-8"] {
          var query = PaymentQuery()
          (query.status, query.order, query.search) = (status, order, search)
          query.after = PaymentQuery.Key(order: order, value: 5, offset: 5)
          let (source, _) = PaymentSearch.Source.inOrder(query)
          let end = PaymentQuery.Key(order: order, value: 4, offset: 4)
          let plan = try PaymentProjection.plan(query, by: source, upTo: end)
          #expect(plan.hasPrefix("SEARCH payment USING") && !plan.contains("TEMP B-TREE"), "\(query): \(plan)")
          #expect(plan.contains("<") && plan.contains(">"), "it ends: \(plan)")
          for filter in query.filters where filter.hasIndex {
            let plan = try PaymentProjection.plan(query, by: .filter(filter), upTo: nil)
            #expect(plan.contains("rowid=?") && !plan.contains("SCAN payment"), "\(query): \(plan)")
          }
        }
      }
    }
  }

  @Test("a statement that takes too long is interrupted, and the next has its full time")
  func tooLong() throws {
    var configuration = Configuration()
    configuration.prepareDatabase { StatementLimit.prepare($0) }
    let queue = try DatabaseQueue(configuration: configuration)
    try queue.read { database in
      #expect(throws: StatementLimit.TookTooLong.self) {
        try StatementLimit.limit(to: .milliseconds(20)) {
          _ = try Int.fetchOne(
            database, sql: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
        }
      }
      let sum = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT count(*) FROM n"
      let count = try Int.fetchOne(database, sql: sum)
      #expect(count == 100_000)
      #expect(throws: DatabaseError.self) {
        try StatementLimit.limit(to: .seconds(60)) { try database.execute(sql: "no statement") }
      }
    }
  }

  @Test("counts are right, whatever becomes of payments")
  func counts() async throws {
    var generator = SeededGenerator.printed("TEST_REGISPAY_SEED")
    try await withTemporaryFolder { folder in
      let store = try openStore(folder)
      let log = PaymentLog(store)
      try await withProjection(folder, store) { projection in
        var ids = try await fill(store, 60, &generator)
        for id in ids where Bool.random(using: &generator) {
          let delay = Delay(
            PaymentWork(.settle), untilMicroseconds: 5, attempts: 3, ownFailures: 1, reason: "try later",
            didTimeOut: Bool.random(using: &generator), beganMicroseconds: Bool.random(using: &generator) ? 4 : nil)
          _ = try await log.record(.delay(delay), on: id, cursor: Self.nowhere)
        }
        try await caughtUp(projection, store)
        // A payment that was counted changes.
        ids += try await fill(store, 20, &generator)
        for id in ids where Bool.random(using: &generator) { _ = try? await log.request(.retry, of: id) }
        try await caughtUp(projection, store)
        let rows = try expected(store, ids)
        let failed = try await projection.parkedCount()
        #expect(failed == rows.filter { $0.status == .failed }.count)
        for step in PaymentStep.allCases {
          let delays = rows.flatMap(\.delays).filter { $0.work.step == step }
          let count = try await projection.delayCount(step)
          #expect(count == delays.count, "\(step)")
          for kind in [false, true] {
            let due = try await projection.due(step, didTimeOut: kind, by: 10, orBegunAfter: .max, limit: 1_000)
            let isSame = Set(due.map(\.delay)) == Set(delays.filter { $0.didTimeOut == kind })
            #expect(isSame && due.count == delays.count { $0.didTimeOut == kind }, "\(step) \(kind)")
          }
        }
      }
      try await store.close()
    }
  }

  @Test("a wait that began after now is due, and so is an older version's wait that is longer than any can be")
  func waitsOfAWrongClock() async throws {
    let now: UInt64 = 1_800_000_000_000_000
    let minute: UInt64 = 60_000_000
    // For each: its start, its end, and whether it is over.
    let waits: [(began: UInt64?, until: UInt64, isOver: Bool)] = [
      (now - minute, now - 1, true), (now - minute, now + minute, false), (now + minute, now + 2 * minute, true),
      (nil, now - 1, true), (nil, now + 14 * minute, false), (nil, now + 16 * minute, true),
    ]
    try await withTemporaryFolder { folder in
      try await withStore { store in
        let log = PaymentLog(store)
        var over: Set<PaymentID> = []
        for wait in waits {
          let id = try await log.initiate(Money(minorUnits: 1_000, currency: .supported[0]))
          let delay = Delay(
            PaymentWork(.create), untilMicroseconds: wait.until, attempts: 1, ownFailures: 0, reason: "busy",
            beganMicroseconds: wait.began)
          _ = try await log.record(.delay(delay), on: id, cursor: Self.nowhere)
          if wait.isOver { over.insert(id) }
        }
        try await withProjection(folder, store) { projection in
          try await caughtUp(projection, store)
          let due = try await projection.due(
            .create, didTimeOut: true, by: now, orBegunAfter: now + 1_000_000, limit: 100)
          #expect(Set(due.map(\.id)) == over && due.count == over.count)
        }
      }
    }
  }

  @Test("events whose rows could not be written are read again, and nothing is missing in the list")
  func failedWrite() async throws {
    try await withTemporaryFolder { folder in
      try await withStore { store in
        let log = PaymentLog(store)
        let money = Money(minorUnits: 1_000, currency: .supported[0])
        var ids = [try await log.initiate(money)]
        try await withProjection(folder, store) { try await caughtUp($0, store) }
        // Refuses new rows for a while.
        try PaymentProjection.change(
          folder + "/payments.sqlite",
          """
          CREATE TRIGGER refusing BEFORE INSERT ON payment
          WHEN strftime('%s', 'now') - \(Int(Date().timeIntervalSince1970)) < 4
          BEGIN SELECT RAISE(ABORT, 'test'); END
          """)
        try await withProjection(folder, store) { projection in
          for _ in 0..<3 { ids.append(try await log.initiate(money)) }
          try await caughtUp(projection, store)
          #expect(Set(try await projection.page(PaymentQuery()).rows.map(\.id)) == Set(ids))
        }
      }
    }
  }

  @Test("the previous version's list, in which a partial refund made a payment Refunded, is rebuilt")
  func olderList() async throws {
    try await withTemporaryFolder { folder in
      try await withStore { store in
        let log = PaymentLog(store)
        let id = try await log.initiate(Money(minorUnits: 1_000, currency: .supported[0]))
        for command in [PaymentCommand.recordCreated(reference: "r"), .recordSettled, .recordCompleted] {
          _ = try await log.record(command, on: id, cursor: Self.nowhere)
        }
        _ = try await log.request(.refund(Money(minorUnits: 1, currency: .supported[0])), of: id)
        _ = try await log.record(.recordRefunded(1), on: id, cursor: Self.nowhere)
        try await withProjection(folder, store) { try await caughtUp($0, store) }
        try PaymentProjection.change(
          folder + "/payments.sqlite",
          """
          UPDATE progress SET version = 5; UPDATE payment SET status = 8; DROP INDEX IF EXISTS payment_part;
          ALTER TABLE payment DROP COLUMN part; ALTER TABLE payment DROP COLUMN refunding
          """)
        try await withProjection(folder, store) { projection in
          try await caughtUp(projection, store)
          let row = try #require(try await projection.page(PaymentQuery()).rows.first)
          #expect(row.status == .completed && row.refunded.decimal == "0.01" && row.refundedPart == .part)
        }
      }
    }
  }

  @Test("indexes are created once the list has caught up, and by the next start if this one ended before")
  func indexes() async throws {
    try await withTemporaryFolder { folder in
      try await withStore { store in
        for _ in 0..<20 { _ = try await PaymentLog(store).initiate(Money(minorUnits: 1, currency: .supported[0])) }
        for round in 1...2 {
          try await withProjection(folder, store) { projection in
            try await eventually("it is complete") { !projection.status.isCatchingUp }
            let names = Set(try PaymentProjection.indexNames(folder + "/payments.sqlite"))
            #expect(names.isSuperset(of: PaymentTable.indexes.map(\.name)), "round \(round)")
          }
          // As if the process had ended between two indexes.
          try PaymentProjection.change(
            folder + "/payments.sqlite", "DROP INDEX payment_amount; DROP INDEX payment_status")
        }
      }
    }
  }
}

extension PaymentProjection {
  fileprivate static func indexNames(_ path: String) throws -> [String] {
    let queue = try DatabaseQueue(path: path)
    defer { try? queue.close() }
    return try queue.read { try String.fetchAll($0, sql: "SELECT name FROM sqlite_master WHERE type = 'index'") }
  }

  /// Changes a file behind the projection's back.
  fileprivate static func change(_ path: String, _ sql: String) throws {
    let queue = try DatabaseQueue(path: path)
    try queue.write { try $0.execute(sql: sql) }
    try queue.close()
  }

  /// SQLite's plan of a query.
  fileprivate static func plan(
    _ query: PaymentQuery, by source: PaymentSearch.Source, upTo end: PaymentQuery.Key?
  ) throws -> String {
    let queue = try DatabaseQueue()
    return try queue.write { database in
      try PaymentTable.create(database)
      for index in PaymentTable.indexes { try database.execute(sql: index.sql) }
      let statement = PaymentTable.select(query, by: source, upTo: end, limit: 51)
      return try Row.fetchAll(database, sql: "EXPLAIN QUERY PLAN " + statement.sql, arguments: statement.arguments)
        .map { $0["detail"] as String }.joined(separator: "; ")
    }
  }
}
