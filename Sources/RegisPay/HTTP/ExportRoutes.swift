import HTTPTypes
import Hummingbird
import NIOCore

/// `GET /api/v1/payments/export`: all payments that pass the list's filters, as JSON lines or as CSV. It is written page by page, so it
/// takes the same memory for any number of payments. The list goes on while it is written: each payment is as it was when its page
/// was read.
struct ExportRoutes: Sendable {
  let projection: PaymentProjection
  let retryStatus: RetryStatus
  private let slots = StreamSlots(limit: 4, limitPerClient: 2, of: "exports")

  init(projection: PaymentProjection, retryStatus: RetryStatus) {
    self.projection = projection
    self.retryStatus = retryStatus
  }

  static let path = "/api/v1/payments/export"
  /// Tries to read a page while the disk is busy, and the pause between two.
  private static let tries = (count: 20, pause: Duration.milliseconds(500))

  private enum Format: String, CaseIterable {
    case csv
    case jsonl

    var contentType: String {
      switch self {
      case .csv: "text/csv; charset=utf-8; header=present"
      case .jsonl: "application/jsonl; charset=utf-8"
      }
    }
  }

  func add(to router: Routes) {
    router.handle(RouterPath(Self.path), [.get: { request, context in try export(request, context) }])
  }

  private func export(_ request: Request, _ context: HTTPRequestContext) throws -> Response {
    let (format, query) = try Self.read(request.uri.formParameters)
    let slot = try slots.take(context.client)
    let body = ResponseBody { writer in
      var (output, query) = (writer, query)
      if format == .csv { try await output.write(ByteBuffer(bytes: PaymentCSV.head)) }
      repeat {
        // A response that breaks off is never taken for a complete one: its last chunk is missing.
        guard context.isStillAllowed() else { throw CancellationError() }
        let page = try await page(query)
        let bytes = await RequestThreads.run(.long) { lines(page.rows, format) }
        if !bytes.isEmpty { try await output.write(ByteBuffer(bytes: bytes)) }
        query.after = page.next
      } while query.after != nil
      try await output.finish(nil)
      withExtendedLifetime(slot) {}
    }
    return Response(
      status: .ok,
      headers: [
        .contentType: format.contentType, .cacheControl: "no-store",
        .contentDisposition: "attachment; filename=\"payments.\(format.rawValue)\"",
      ], body: body)
  }

  /// - Throws: ``Problem`` that names the mistake.
  private static func read(_ parameters: Parameters) throws(Problem) -> (Format, PaymentQuery) {
    var format = Format.jsonl
    var filters: [(key: Substring, value: Substring)] = []
    var isGiven = false
    for (name, value) in parameters {
      switch name {
      case "format":
        guard !isGiven else { throw Problem.badRequest("format is given twice.") }
        guard let known = Format(rawValue: String(value)) else {
          throw Problem.badRequest("format must be one of \(Format.allCases.map(\.rawValue).joined(separator: ", ")).")
        }
        (format, isGiven) = (known, true)
      case "limit", "after": throw Problem.badRequest("An export has all payments, and no parameter \(name).")
      default: filters.append((name, value))
      }
    }
    var query = try PaymentQuery(filters)
    query.limit = PaymentQuery.pageLimit
    return (format, query)
  }

  private func page(_ query: PaymentQuery) async throws -> PaymentProjection.Page {
    for _ in 1..<Self.tries.count {
      do {
        return try await projection.page(query)
      } catch is StatementLimit.TookTooLong {
        try await Task.sleep(for: Self.tries.pause)
      }
    }
    return try await projection.page(query)
  }

  private func lines(_ rows: [PaymentRow], _ format: Format) -> [UInt8] {
    var bytes: [UInt8] = []
    for row in rows {
      switch format {
      case .csv: PaymentCSV.add(row, to: &bytes)
      case .jsonl:
        JSONValue.object(PaymentJSON.members(of: row, waiting: retryStatus[row.id])).write(to: &bytes)
        bytes.append(UInt8(ascii: "\n"))
      }
    }
    return bytes
  }
}
