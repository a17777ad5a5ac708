# The addon built by node-gyp instead of cmake-js: `npx node-gyp rebuild` (docs/setup.md). Sources, flags and libraries come from
# scripts/lib/native-flags.mjs, which CMakeLists.txt reads too.
{
  "variables": {
    "cuda%": "<!(node scripts/native-flags.mjs gyp cuda)"
  },
  "targets": [
    {
      "target_name": "diffcoder",
      "sources": ["<!@(node scripts/native-flags.mjs gyp units)"],
      "include_dirs": ["native"],
      "defines": ["<!@(node scripts/native-flags.mjs gyp defines)"],
      # node's own build has no exceptions, no RTTI and another standard
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20", "-std=gnu++1y"],
      "cflags!": ["-fno-exceptions"],
      "cflags_cc": ["-std=c++20", "-O3", "-DNDEBUG", "-include", "<(module_root_dir)/native/precompiled.h", "<!@(node scripts/native-flags.mjs gyp cxxFlags)", "<!@(node scripts/native-flags.mjs gyp systemIncludes)"],
      "ldflags": ["<!@(node scripts/native-flags.mjs gyp ldFlags)", "<!@(node scripts/native-flags.mjs gyp rpathFlags)"],
      "libraries": ["<!@(node scripts/native-flags.mjs gyp libraries)"],
      "xcode_settings": {
        "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
        "GCC_ENABLE_CPP_RTTI": "YES",
        "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
        "MACOSX_DEPLOYMENT_TARGET": "11.0",
        "OTHER_CPLUSPLUSFLAGS": ["-include", "<(module_root_dir)/native/precompiled.h", "<!@(node scripts/native-flags.mjs gyp cxxFlags)", "<!@(node scripts/native-flags.mjs gyp systemIncludes)"],
        "OTHER_LDFLAGS": ["<!@(node scripts/native-flags.mjs gyp rpathFlags)"]
      },
      "conditions": [
        ["cuda=='true'", {
          "sources": ["<!@(node scripts/native-flags.mjs gyp cudaSources)"],
          "rules": [
            {
              "rule_name": "nvcc",
              "extension": "cu",
              "outputs": ["<(INTERMEDIATE_DIR)/<(RULE_INPUT_DIRNAME)/<(RULE_INPUT_ROOT).cu.o"],
              "process_outputs_as_sources": 1,
              "message": "nvcc <(RULE_INPUT_PATH)",
              "action": [
                "<!(node scripts/native-flags.mjs gyp nvcc)", "-c", "<(RULE_INPUT_PATH)", "-o", "<(INTERMEDIATE_DIR)/<(RULE_INPUT_DIRNAME)/<(RULE_INPUT_ROOT).cu.o",
                "-Inative", "-std=c++20", "-O3", "-DNDEBUG",
                "<!@(node scripts/native-flags.mjs gyp cudaFlags)",
                "<!@(node scripts/native-flags.mjs gyp cudaGencode)",
                "<!@(node scripts/native-flags.mjs gyp defineFlags)",
                "<!@(node scripts/native-flags.mjs gyp cudaSystemIncludes)"
              ]
            }
          ]
        }]
      ]
    },
    {
      # Tells set-up what this build was made from, so that it is not built again with CMake.
      "target_name": "stamp",
      "type": "none",
      "dependencies": ["diffcoder"],
      "actions": [
        {
          "action_name": "stamp",
          "inputs": ["<(PRODUCT_DIR)/diffcoder.node"],
          "outputs": ["build/diffcoder.stamp.json"],
          "action": ["node", "scripts/native-flags.mjs", "stamp"]
        }
      ]
    }
  ]
}
