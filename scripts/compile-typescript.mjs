// Compiles lib/ to dist/ as tsc -p tsconfig.build.json does, and writes what zod schemas say of their fields (`describe`,
// `default`) into the declarations, where editors show it: zod's inferred types carry only JSDoc comments along.
import { existsSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const format = {
  getCanonicalFileName: (name) => name,
  getCurrentDirectory: () => root,
  getNewLine: () => "\n",
};

/**
 * Reports what is wrong and ends.
 * @returns {never}
 */
function fail(diagnostics) {
  process.stdout.write(ts.formatDiagnostics(diagnostics, format));
  process.exit(1);
}

const config = ts.getParsedCommandLineOfConfigFile(join(root, "tsconfig.build.json"), undefined, {
  ...ts.sys,
  onUnRecoverableConfigFileDiagnostic: (diagnostic) => fail([diagnostic]),
});
if (!config || config.errors.length > 0) fail(config?.errors ?? []);
const { fileNames: rootNames, options } = config;

/** The program as far as it follows from the last one, and what is wrong with it. */
function check() {
  const host = ts.createIncrementalCompilerHost(options);
  const program = ts.createIncrementalProgram({ rootNames, options, host });
  const problems = [
    ...program.getConfigFileParsingDiagnostics(),
    ...program.getOptionsDiagnostics(),
    ...program.getSyntacticDiagnostics(),
    ...program.getGlobalDiagnostics(),
    ...program.getSemanticDiagnostics(),
  ];
  return { program, problems };
}

let { program: builder, problems } = check();
if (problems.length > 0 && existsSync(options.tsBuildInfoFile ?? "")) {
  // After a change of a class with a [Symbol.dispose]() the compiler may miss that method where it checks incrementally.
  rmSync(options.tsBuildInfoFile ?? "");
  ({ program: builder, problems } = check());
}
if (problems.length > 0) fail(problems);
const checker = builder.getProgram().getTypeChecker();
const { diagnostics } = builder.emit(undefined, undefined, undefined, undefined, {
  afterDeclarations: [documentFields],
});
if (diagnostics.length > 0) fail(diagnostics);

/** Puts a comment before every field of a schema's shape in a declaration file. */
function documentFields() {
  const transformFile = (declarations) => {
    const source = builder.getSourceFile(/** @type {ts.SourceFile} */ (ts.getOriginalNode(declarations)).fileName);
    const { locals } = /** @type {any} */ (source);
    for (const statement of declarations.statements) {
      if (!ts.isVariableStatement(statement)) continue;
      for (const { name, type } of statement.declarationList.declarations) {
        const symbol = ts.isIdentifier(name) ? locals?.get(name.escapedText) : undefined;
        if (symbol && type) document(type, checker.getTypeOfSymbol(checker.getExportSymbolOfSymbol(symbol)));
      }
    }
    return declarations;
  };
  return { transformSourceFile: transformFile, transformBundle: (bundle) => bundle };
}

/** Walks a type as it is written in the declarations and as the checker knows it, side by side. */
function document(node, type) {
  if (ts.isTypeLiteralNode(node)) {
    for (const member of node.members) {
      if (!ts.isPropertySignature(member) || !member.type || ts.isComputedPropertyName(member.name)) continue;
      const property = type.getProperty(member.name.text);
      if (!property) continue;
      const words = property.declarations?.map(wordsOf).find((text) => text !== "");
      if (words) {
        const comment = `*\n * ${words.replaceAll("*/", "*\u200b/").split("\n").join("\n * ")}\n `;
        ts.addSyntheticLeadingComment(member, ts.SyntaxKind.MultiLineCommentTrivia, comment, true);
      }
      document(member.type, checker.getTypeOfSymbol(property));
    }
  } else if (ts.isTypeReferenceNode(node) || ts.isTupleTypeNode(node)) {
    const inner = (ts.isTupleTypeNode(node) ? node.elements : node.typeArguments) ?? [];
    const types = checker.getTypeArguments(type);
    inner.forEach((each, i) => {
      if (types[i]) document(each, types[i]);
    });
  } else if (ts.isTypeOperatorNode(node)) document(node.type, type);
}

/**
 * What a field's schema says of itself: `describe`, or a comment before the field; then `default`. A field of another schema's
 * shape (`other.shape.seed`) says what it says there.
 */
function wordsOf(declaration) {
  if (!ts.isPropertyAssignment(declaration)) return "";
  let words;
  let standard;
  for (let node = declaration.initializer; ts.isCallExpression(node) || ts.isPropertyAccessExpression(node); ) {
    if (ts.isCallExpression(node) && ts.isPropertyAccessExpression(node.expression)) {
      const [argument] = node.arguments;
      const method = node.expression.name.text;
      if (method === "describe") words ??= literalText(argument);
      if (method === "default" && argument) standard ??= argument.getText();
    } else if (ts.isPropertyAccessExpression(node) && !words) {
      const [other] = checker.getSymbolAtLocation(node.name)?.declarations ?? [];
      if (other && other !== declaration && ts.isPropertyAssignment(other)) return wordsOf(other);
    }
    node = node.expression;
  }
  words ??= ts.displayPartsToString(
    checker.getSymbolAtLocation(declaration.name)?.getDocumentationComment(checker) ?? [],
  );
  if (!words) return "";
  return standard === undefined ? words : `${words}\n@default ${standard}`;
}

/** The text of string literals, also of several that are added. */
function literalText(node) {
  if (node === undefined) return undefined;
  if (ts.isStringLiteralLike(node)) return node.text;
  if (ts.isBinaryExpression(node)) return `${literalText(node.left)}${literalText(node.right)}`;
  return undefined;
}
