import HTTPTypes
import Hummingbird
import NIOCore

extension Problem: HTTPResponseError {
  var response: Response {
    let bytes = json.bytes
    return Response(
      status: status, headers: fields(bodyBytes: bytes.count), body: ResponseBody(byteBuffer: ByteBuffer(bytes: bytes)))
  }

  func response(from request: Request, context: some RequestContext) throws -> Response { self.response }
}

extension Problem {
  static func incomplete(_ id: PaymentID, _ missing: ClosedRange<UInt64>) -> Problem {
    Problem(
      status: .internalServerError, name: "payment-incomplete",
      detail: "\(PaymentLogError.incomplete(id, missing: missing)). Only an earlier backup can have them.")
  }

  static func damaged(_ id: PaymentID) -> Problem {
    Problem(
      status: .internalServerError, name: "payment-incomplete",
      detail: "Some events of payment \(id) can't be read, since the log is damaged there; nothing was changed. "
        + "Only an earlier backup can have them. GET /health says where the damage is.")
  }

  static func newerEvent(_ id: PaymentID, _ event: PaymentLog.NewerEvent) -> Problem {
    Problem(
      status: .conflict, name: "newer-event",
      detail: "Nothing was changed: \(PaymentLogError.newerEvent(id, event)). Only that program can decide on it.")
  }

  /// The payment's state does not allow the command.
  init(_ refusal: PaymentRefusal) { self.init(refusal: refusal.name, "\(refusal)") }

  init(refusal name: String, _ detail: String) {
    self.init(status: .conflict, name: name, detail: "Nothing was changed: \(detail).")
  }
}

extension Response {
  init(json: JSONValue, status: HTTPResponse.Status = .ok, contentType: String = "application/json; charset=utf-8") {
    self.init(bytes: json.bytes, status: status, contentType: contentType)
  }

  init(bytes: [UInt8], status: HTTPResponse.Status = .ok, contentType: String) {
    self.init(
      status: status,
      // No client may guess another content type, and no cache may store the response.
      headers: [.contentType: contentType, .xContentTypeOptions: "nosniff", .cacheControl: "no-store"],
      body: ResponseBody(byteBuffer: ByteBuffer(bytes: bytes)))
  }

  init(text: String, status: HTTPResponse.Status = .ok) {
    self.init(bytes: Array(text.utf8), status: status, contentType: "text/plain; charset=utf-8")
  }
}
