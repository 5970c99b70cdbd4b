/// A message of a step's queue: it names a payment. Pure.
enum WorkMessage {
  /// - Parameter body: an envelope of MassTransit, a CloudEvent as JSON, or `{"aggregateId":"pay:…"}` alone.
  /// - Returns: nil for a message that names no payment.
  static func payment(_ body: [UInt8]) -> PaymentID? {
    // The caller rejects a message that is no JSON, and logs that.
    guard let json = try? JSONReader.read(body) else { return nil }
    let data = [json["message"], json["data"], json].lazy.compactMap { $0?["aggregateId"]?.text }
    return data.first.flatMap { PaymentID(stream: $0) }
  }
}
