import Foundation
import HTTPTypes
import Hummingbird
import Logging

/// `/api/v1/keys`: lists, makes and revokes API keys.
///
/// Nobody gets more than they have: a key makes keys with its own scopes at most, which expire no later than itself. The first key is
/// made on the machine (`regispay keys create`): over HTTP the first client that comes could lock out all others.
struct KeyRoutes: Sendable {
  let keys: KeyWatch
  let actions: ActionLog
  let logger: Logger

  /// Days that a key may be valid at most, if it expires.
  private static let dayLimit: Int64 = 36_500
  /// Keys in the file at most, revoked ones included, before no more are made here: all are kept in memory.
  private static let keyLimit = 10_000

  func add(to router: Routes) {
    router.handle(
      "/api/v1/keys",
      [
        .get: { _, _ in
          let keys = keys.all
          return await RequestThreads.run(.short) { Response(json: ["keys": .array(keys.map(Self.json))]) }
        },
        .post: { request, context in try await create(request, context) },
      ])
    router.handle("/api/v1/keys/{id}", [.delete: { _, context in try await revoke(context) }])
  }

  /// What a request for a key asks for.
  struct NewKey: Sendable, Hashable {
    var name: String
    var owner: String?
    var scopes: Set<KeyScope>
    var days: Int64?

    /// - Throws: ``Problem`` that names the mistake.
    init(_ body: JSONValue) throws(Problem) {
      guard case .object(let members) = body else { throw Self.problem("body", "The body must be a JSON object") }
      for member in members where !["name", "owner", "scopes", "expiresInDays"].contains(member.key) {
        throw Self.problem(member.key, "There is no such member; possible are name, owner, scopes and expiresInDays")
      }
      name = try Self.text(body["name"], "name")
      owner =
        switch body["owner"] {
        case nil, .null: nil
        case let value?: try Self.text(value, "owner")
        }
      guard case .array(let names)? = body["scopes"], !names.isEmpty else {
        throw Self.problem("scopes", "scopes must be an array with at least one of \(Self.scopeNames)")
      }
      scopes = []
      for name in names {
        guard let scope = name.text.flatMap(KeyScope.init(rawValue:)) else {
          throw Self.problem("scopes", "Each scope must be one of \(Self.scopeNames)")
        }
        scopes.insert(scope)
      }
      days = try Self.days(body["expiresInDays"])
    }

    private static var scopeNames: String { KeyScope.allCases.map(\.rawValue).joined(separator: ", ") }

    private static func text(_ value: JSONValue?, _ name: String) throws(Problem) -> String {
      guard let text = value?.text, APIKey.isName(text) else {
        throw problem(name, "\(name) must be \(APIKey.nameRule)")
      }
      return text
    }

    private static func days(_ value: JSONValue?) throws(Problem) -> Int64? {
      guard let value, value != .null else { return nil }
      guard let days = value.wholeNumber, (1...dayLimit).contains(days) else {
        throw problem("expiresInDays", "expiresInDays must be a whole number of days from 1 to \(dayLimit)")
      }
      return days
    }

    private static func problem(_ field: String, _ message: String) -> Problem {
      ValidationError(errors: [FieldError(field: field, messages: [message])]).problem
    }
  }

  private func create(_ request: Request, _ context: HTTPRequestContext) async throws -> Response {
    let new: NewKey
    do {
      new = try NewKey(try await request.readJSON(limit: CreateRequest.bodyLimit))
    } catch let error as JSONError {
      throw ValidationError(error).problem
    }
    guard let maker = context.key else {
      throw Problem(
        status: .conflict, name: "no-keys",
        detail: "Nothing was changed: make the first key on the machine, with regispay keys create.")
    }
    if let missing = KeyScope.allCases.first(where: { new.scopes.contains($0) && !maker.scopes.contains($0) }) {
      throw AccessMiddleware.forbidden(missing)
    }
    guard keys.ring.entries.count < Self.keyLimit else {
      throw Problem(
        status: .conflict, name: "too-many-keys", detail: "Nothing was changed: there are \(Self.keyLimit) keys.")
    }
    let lifetime = try Self.lifetime(new, of: maker)
    let key = try await changing { () throws(KeyStoreError) in
      try keys.create(name: new.name, owner: new.owner, scopes: new.scopes, lifetimeSeconds: lifetime)
    }
    note("a key was made", key.id, new.name, context)
    guard let stored = keys.ring.entries[key.id]?.key else { throw Self.unwritten }
    await actions.record(
      .keyCreated, key.id, Self.members(stored).filter { ["name", "owner", "scopes", "expiresAt"].contains($0.key) },
      by: maker.holder)
    // Here and never again.
    return Response(json: .object([.init("key", .string(key.text))] + Self.members(stored)), status: .created)
  }

  /// Seconds; no more than the maker has left.
  private static func lifetime(_ new: NewKey, of maker: StoredKey) throws(Problem) -> Int64? {
    let asked = new.days.map { $0 * 86_400 }
    guard let expiry = maker.expirySeconds else { return asked }
    let left = max(expiry - Int64(Date().timeIntervalSince1970), 1)
    guard let asked else { return left }
    guard asked <= left else {
      throw Problem(
        status: .forbidden, name: "too-long",
        detail: "Nothing was changed: a key that expires makes keys that expire no later than itself.")
    }
    return asked
  }

  private func revoke(_ context: HTTPRequestContext) async throws -> Response {
    let id = context.parameters.get("id") ?? ""
    guard let known = keys.ring.entries[id]?.key else {
      throw Problem.notFound("There is no key \(id.debugDescription).")
    }
    let isNew = known.revokedSeconds == nil
    _ = try await changing { () throws(KeyStoreError) in try keys.revoke(id) }
    if isNew {
      note("a key was revoked", id, known.name, context)
      await actions.record(.keyRevoked, id, [.init("name", .string(known.name))], by: context.holder)
    }
    guard let key = keys.ring.entries[id]?.key else { throw Self.unwritten }
    return Response(json: Self.json(key))
  }

  /// Writes the file, on a thread that may wait for the disk.
  private func changing<Value: Sendable>(
    _ work: @escaping @Sendable () throws(KeyStoreError) -> Value
  ) async throws -> Value {
    do {
      return try await RequestThreads.run(.long, work)
    } catch {
      // Without the error's advice, which is for a program that has ended.
      logger.error("the keys can't be changed", metadata: ["error": "\(error.path): \(error.reason)"])
      throw Problem.unavailable(
        "The keys' file can't be written now: \(error.reason). Look at the list of keys before you try again.")
    }
  }

  private static var unwritten: Problem {
    .unavailable("The keys' file was replaced meanwhile. Look at the list of keys before you try again.")
  }

  private func note(_ message: String, _ id: String, _ name: String, _ context: HTTPRequestContext) {
    logger.notice(
      "\(message)",
      metadata: [
        "key": "\(id)", "name": "\(name)", "actor": "\(context.key?.name ?? "")",
        "actorKey": "\(context.key?.id ?? "")",
      ])
  }

  private static func json(_ key: StoredKey) -> JSONValue { .object(members(key)) }

  private static func members(_ key: StoredKey) -> [JSONValue.Member] {
    func time(_ seconds: Int64?) -> JSONValue {
      seconds.map { .string(timestamp(microseconds: UInt64(max($0, 0)) * 1_000_000)) } ?? .null
    }
    return [
      .init("id", .string(key.id)), .init("name", .string(key.name)), .init("owner", .string(key.owner)),
      .init("scopes", .array(KeyScope.allCases.filter(key.scopes.contains).map { .string($0.rawValue) })),
      .init("createdAt", time(key.createdSeconds)), .init("expiresAt", time(key.expirySeconds)),
      .init("revokedAt", time(key.revokedSeconds)), .init("lastUsedAt", time(key.lastUsedSeconds)),
    ]
  }
}
