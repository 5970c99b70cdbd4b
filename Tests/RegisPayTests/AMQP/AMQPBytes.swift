import NIOCore

@testable import RegisPay

/// What a broker sends, written by hand after the specification of AMQP 0-9-1, apart from the code that is tested.
enum AMQPBytes {
  static func frame(_ type: UInt8, _ channel: UInt16, _ payload: [UInt8]) -> [UInt8] {
    [type] + big(channel) + big(UInt32(payload.count)) + payload + [0xCE]
  }

  static func method(
    _ channel: UInt16, _ classID: UInt16, _ methodID: UInt16, _ arguments: [UInt8] = []
  ) -> [UInt8] { frame(1, channel, big(classID) + big(methodID) + arguments) }

  static func big(_ number: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }

  static func short(_ text: String) -> [UInt8] { [UInt8(text.utf8.count)] + text.utf8 }

  static func long(_ bytes: [UInt8]) -> [UInt8] { big(UInt32(bytes.count)) + bytes }

  static func start(_ mechanisms: String = "AMQPLAIN PLAIN", properties: [UInt8] = [], version: [UInt8] = [0, 9])
    -> [UInt8]
  { method(0, 10, 10, version + long(properties) + long(Array(mechanisms.utf8)) + long(Array("en_US".utf8))) }

  static func tune(_ channels: UInt16 = 2_047, _ frame: UInt32 = 131_072, _ seconds: UInt16 = 60) -> [UInt8] {
    method(0, 10, 30, big(channels) + big(frame) + big(seconds))
  }

  static let openOK = method(0, 10, 41, short(""))
  static func channelOpenOK(_ channel: UInt16) -> [UInt8] { method(channel, 20, 11, long([])) }
  static let confirmOK = method(1, 85, 11)

  /// All that a broker sends while a client logs in.
  static let login = start() + tune() + openOK + channelOpenOK(1) + confirmOK

  static func ack(_ tag: UInt64, multiple: Bool = false) -> [UInt8] { method(1, 60, 80, big(tag) + [multiple ? 1 : 0]) }

  static func close(_ channel: UInt16, _ code: UInt16, _ text: String) -> [UInt8] {
    method(channel, channel == 0 ? 10 : 20, channel == 0 ? 50 : 40, big(code) + short(text) + big(UInt32(0)))
  }

  /// - Parameter properties: with their flags.
  static func header(_ channel: UInt16, _ byteCount: UInt64, _ properties: [UInt8] = [0, 0]) -> [UInt8] {
    frame(2, channel, big(UInt16(60)) + big(UInt16(0)) + big(byteCount) + properties)
  }

  static func body(_ channel: UInt16, _ bytes: [UInt8]) -> [UInt8] { frame(3, channel, bytes) }

  static func deliver(_ tag: UInt64, channel: UInt16 = 3) -> [UInt8] {
    method(channel, 60, 60, short("create") + big(tag) + [0] + short("") + short("key"))
  }

  static let returned = method(1, 60, 50, big(UInt16(312)) + short("NO_ROUTE") + short("shop") + short(""))
}

extension AMQPSession {
  static let login = Login(
    user: "shop", password: "sesame", vhost: "orders", name: "regispay", version: "1", heartbeatSeconds: 10)

  /// Logged in.
  static func ready() throws -> AMQPSession {
    var session = AMQPSession(login)
    _ = try session.all(AMQPBytes.login)
    _ = session.takeOutput()
    return session
  }

  /// What it says to these bytes, but for what says nothing.
  mutating func all(_ bytes: [UInt8]) throws(AMQPFailure) -> [Event] {
    receive(ByteBuffer(bytes: bytes))
    var events: [Event] = []
    while let event = try next() { if event != .part { events.append(event) } }
    return events
  }

  /// Why it ends with these bytes.
  mutating func end(_ bytes: [UInt8]) -> AMQPFailure? {
    do throws(AMQPFailure) {
      _ = try all(bytes)
      return nil
    } catch {
      return error
    }
  }
}
